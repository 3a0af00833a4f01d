"""The data of a run, from the config that its folder holds."""

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule

from settings import instantiate
from trusted import Place, check


def _gives(*methods: str) -> Any:
    return lambda candidate: any(callable(getattr(candidate, method, None)) for method in methods)


DATA = Place(
    "a data module",
    "data",
    lambda candidate: issubclass(candidate, LightningDataModule),
    inside=Place("a source of text or a tokenizer", "data", _gives("documents", "splits", "build")),
)


def rebuilt(config: Any, file: Path, cache_dir: str) -> Any:
    """The data module that the config of a run describes, prepared.

    Args:
        config: `data` of the run's config.
        file: where it was read, for the message.
        cache_dir: where packed text is kept; the run's own folder for it is not written to.

    Raises:
        ValueError: something in it is not of this project, or it cannot be built.
    """
    check(config, DATA, file, "data")
    try:
        data = instantiate(_cached_in(config, cache_dir))
        data.prepare_data()
        data.setup("fit")
    except Exception as error:  # whatever constructors raise over arguments of other code than wrote them
        raise ValueError(f"{file}: its data cannot be had here: {error}\ntype data=... for other text") from error
    return data


def _cached_in(node: Any, cache_dir: str) -> Any:
    """A config with its folders to write to replaced."""
    if isinstance(node, dict):
        return {key: cache_dir if key == "cache_dir" else _cached_in(value, cache_dir) for key, value in node.items()}
    return [_cached_in(value, cache_dir) for value in node] if isinstance(node, list) else node
