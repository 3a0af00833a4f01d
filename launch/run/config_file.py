"""Reading of config.yaml files that anyone may have written."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dissimilarity.loading.untrusted import check_events, check_plain, first_line, text_of


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file as plain values; interpolations stay text.

    Raises:
        ValueError: If it is not a YAML mapping of plain values, uses anchors or tags, or exceeds the limits.
    """
    text = text_of(path, ".yaml")
    try:
        check_events(text)
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except Exception as error:  # the exceptions of yaml and OmegaConf share no base class
        raise ValueError(f"{path}: it is damaged or not a config ({first_line(error)}); copy it again") from error
    if type(content) is not dict:
        raise ValueError(f"{path}: expected a mapping of keys, found {type(content).__name__}")
    check_plain(content, path)
    return {str(key): value for key, value in content.items()}
