"""The data of a run, rebuilt from the config in its folder."""

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule

from settings import instantiate
from trusted import Place, check


def _has_any(*methods: str) -> Any:
    return lambda candidate: any(callable(getattr(candidate, method, None)) for method in methods)


DATA = Place(
    "a data module",
    "data",
    lambda candidate: issubclass(candidate, LightningDataModule),
    inside=Place("a source of text or a tokenizer", "data", _has_any("documents", "splits", "build")),
)


def rebuilt(config: Any, file: Path, cache_dir: str) -> Any:
    """Build and prepare the data module that the config of a run describes.

    Args:
        config: The key `data` of the run's config.
        file: The file it was read from, for the message.
        cache_dir: Folder for packed text, instead of the one in the config.

    Raises:
        ValueError: If it names classes that are not of this project, or cannot be built.
    """
    check(config, DATA, file, "data")
    try:
        data = instantiate(_cached_in(config, cache_dir))
        data.prepare_data()
        data.setup("fit")
    except Exception as error:  # constructors of another version of the code may raise anything
        raise ValueError(f"{file}: its data cannot be built here: {error}\ntype data=... for other text") from error
    return data


def _cached_in(node: Any, cache_dir: str) -> Any:
    """Return a config with the folders that it writes to replaced."""
    if isinstance(node, dict):
        return {key: cache_dir if key == "cache_dir" else _cached_in(value, cache_dir) for key, value in node.items()}
    return [_cached_in(value, cache_dir) for value in node] if isinstance(node, list) else node
