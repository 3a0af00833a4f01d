"""Values from the config.yaml of a run, which may come from a stranger."""

from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from data.rebuilt import DATA, rebuilt
from dissimilarity.loading.untrusted import shown
from launch.cli.rules import PART
from launch.cli.validate import faults
from launch.run.config_file import read_yaml
from trusted import check

Kind = TypeVar("Kind")


def config_of(folder: Path) -> dict[str, Any]:
    """Return the config of the run in `folder`, or an empty dict if there is none.

    Raises:
        ValueError: The file is damaged or holds more than plain values.
    """
    file = folder / "config.yaml"
    return read_yaml(file) if file.is_file() else {}


def data_of_run(config: dict[str, Any], folder: Path, cache_dir: str) -> Any:
    """Build and prepare the data of the run in `folder`, in whose config only what a command may type is accepted.

    Args:
        config: The config of the run.
        folder: The folder of the run, for the message.
        cache_dir: Folder for packed text.

    Raises:
        ValueError: A value has no place there, or the data cannot be built here.
    """
    file = folder / "config.yaml"
    data = check(config.get("data"), DATA, file, "data")
    for fault in faults(OmegaConf.create({"data": data}), {"data": PART}):
        raise ValueError(f"{file}: {fault}")
    return rebuilt(data, file, cache_dir)


def entry(config: dict[str, Any], key: str, kind: type[Kind], folder: Path) -> Kind:
    """Return the value of a dotted key in the config of the run in `folder`.

    Raises:
        ValueError: The key is missing or its value has another type.

    Examples:
        >>> entry({"model": {"family": "gelu"}}, "model.family", str, Path("runs/a"))
        'gelu'
    """
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    if type(node) is not kind:
        raise ValueError(f"{folder / 'config.yaml'}: {key}={shown(node)}: expected {kind.__name__}")
    return node
