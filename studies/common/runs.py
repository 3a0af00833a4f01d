"""What the config.yaml of a run says, as studies use it: anyone may have written it."""

from pathlib import Path
from typing import Any, TypeVar

from dissimilarity.loading.untrusted import shown
from launch.run.config_file import read_yaml

Kind = TypeVar("Kind")


def config_of(folder: Path) -> dict[str, Any]:
    """The config of the run in a folder; empty where there is none.

    Raises:
        ValueError: it is damaged, or holds more than plain values.
    """
    file = folder / "config.yaml"
    return read_yaml(file) if file.is_file() else {}


def entry(config: dict[str, Any], key: str, kind: type[Kind], folder: Path) -> Kind:
    """The value of a dotted key in the config of the run in `folder`.

    Raises:
        ValueError: it is not there or of another type.
    """
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if type(node) is not kind:
        raise ValueError(f"{folder / 'config.yaml'}: {key}={shown(node)}: expected {kind.__name__}")
    return node
