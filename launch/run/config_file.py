"""Reading of config.yaml files that anyone may have written."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from dissimilarity.loading.untrusted import MAX_DEPTH, check_plain, shown, text_of


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file as plain values; interpolations stay text.

    Raises:
        ValueError: If it is not a YAML mapping of plain values, uses anchors or tags, or exceeds the limits.
    """
    text = text_of(path, ".yaml")
    try:
        _check_events(text)
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except Exception as error:  # the exceptions of yaml and OmegaConf share no base class
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path}: it is damaged or not a config ({first}); copy it again") from error
    if type(content) is not dict:
        raise ValueError(f"{path}: expected a mapping of keys, found {type(content).__name__}")
    check_plain(content, path)
    return {str(key): value for key, value in content.items()}


def _check_events(text: str) -> None:
    """Reject anchors, a few lines of which can expand to gigabytes, tags and deep nesting before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None) is not None:
            raise ValueError(f"line {line} has an anchor or alias, which no config of this project has")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"line {line} has the tag {shown(event.tag)}, and tags are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"line {line} is nested deeper than {MAX_DEPTH} levels")
