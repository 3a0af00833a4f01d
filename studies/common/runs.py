"""Values from the config.yaml of a run, which may come from a stranger."""

from pathlib import Path
from typing import Any, TypeVar

from dissimilarity.loading.untrusted import shown
from launch.run.config_file import read_yaml

Kind = TypeVar("Kind")


def config_of(folder: Path) -> dict[str, Any]:
    """Return the config of the run in `folder`, or an empty dict if there is none.

    Raises:
        ValueError: The file is damaged or holds more than plain values.
    """
    file = folder / "config.yaml"
    return read_yaml(file) if file.is_file() else {}


def entry(config: dict[str, Any], key: str, kind: type[Kind], folder: Path) -> Kind:
    """Return the value of a dotted key in the config of the run in `folder`.

    Raises:
        ValueError: The key is missing or its value has another type.

    Example:
        >>> entry({"model": {"family": "gelu"}}, "model.family", str, Path("runs/a"))
        'gelu'
    """
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if type(node) is not kind:
        raise ValueError(f"{folder / 'config.yaml'}: {key}={shown(node)}: expected {kind.__name__}")
    return node
