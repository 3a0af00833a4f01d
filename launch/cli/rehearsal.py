"""Checks that need the parts to be built, made before a run folder is opened: a rejected command leaves no folder."""

import inspect
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig

import settings
from launch.cli.arguments import CLASS_ARGUMENTS


def rehearse(cfg: DictConfig, folder: Path) -> None:
    """Build measures, data and trainer once, as `cfg` describes them, and discard them; write only packed text.

    If `folder` holds a run that overwrite=true is about to delete, also build the text, the probe set, the net and its
    sites, so that the old run is deleted only for one that can begin.

    Raises:
        ValueError: If one of them cannot be built; says which.
    """
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import Logger

    from dissimilarity.tables.names import UNTRAINED
    from dissimilarity.tracking.references import OWN
    from launch.cli.quiet import silence
    from launch.run.references import compares
    from models import references

    silence()
    build_measures(cfg)
    build_trainer(cfg)
    for group, kind in (("callbacks", pl.Callback), ("logger", Logger)):
        for name, node in cfg[group].items():
            _check_arguments(f"{group}.{name}", node, kind)
    if "tensorboard" in cfg.logger and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise ValueError("logger=tensorboard: this package is not installed; type pip install tensorboard")
    data = _built("data", cfg.data)
    for uri in cfg.references if compares(cfg) else ():
        if uri not in (*OWN, UNTRAINED):
            references.resolve(uri, cfg.runs_dir)
    if not (folder / "checkpoints").exists():
        return
    from launch.run.module import build_module

    data.prepare_data()
    data.setup("fit")
    data.probe(cfg.probe.sequences, cfg.probe.length, cfg.probe.split)
    build_module(cfg, data)


def build_measures(cfg: DictConfig) -> None:
    """Build the measures and discard them; raise ValueError for one that cannot be built."""
    from dissimilarity.measures.base.measure import Measure

    for name, node in cfg.measures.items():
        _built(f"measures.{name}", node, Measure)


def build_study(cfg: DictConfig) -> Callable[[DictConfig], Any]:
    """Build the study; raise ValueError for an argument that it does not accept."""
    study = _built("study", cfg.study)
    try:
        inspect.signature(study.func).bind(cfg, **study.keywords)
    except TypeError as error:
        raise ValueError(f"study: {error}") from None
    return study


def build_trainer(cfg: DictConfig) -> None:
    """Build the Trainer and discard it; raise ValueError if this machine or Lightning lacks what it asks for."""
    import pytorch_lightning as pl

    from launch.machine import check_device, check_devices

    check_device("trainer.accelerator", cfg.trainer.accelerator)
    check_devices(cfg.trainer.accelerator, cfg.trainer.devices)
    precision = "32-true" if cfg.trainer.precision == "auto" else cfg.trainer.precision
    _built("trainer", cfg.trainer, pl.Trainer, precision=precision, logger=False, enable_checkpointing=False)


def _check_arguments(key: str, node: DictConfig, kind: type) -> None:
    """Raise ValueError for a _target_ that is missing, is not a `kind`, or does not accept its arguments."""
    try:
        target = get_object(node._target_)
        if inspect.isclass(target) and not issubclass(target, kind):
            raise TypeError(f"expected a {kind.__name__}, found {node._target_}")
        names = [str(name) for name in node if not str(name).startswith("_")]
        signature = inspect.signature(target)
        signature.bind_partial(**dict.fromkeys(names))
        # Arguments that a part of ours hands to its base class have rules all the same.
        ruled = {rule.split(".")[0] for rule in CLASS_ARGUMENTS.get(node._target_, names)}
        if unknown := [name for name in names if name not in ruled | signature.parameters.keys()]:
            raise TypeError(f"got an unexpected keyword argument {unknown[0]!r}")
    except (ImportError, TypeError) as error:
        raise ValueError(f"{key}: {error}") from None


def _built(key: str, node: DictConfig, kind: type = object, **arguments: Any) -> Any:
    """Build the `kind` that `node` describes; raise ValueError, naming the key, if its constructor rejects it."""
    try:
        part = settings.instantiate(node, **arguments)
    except (InstantiationException, ValueError) as error:
        cause = str(error.__cause__ or error) if isinstance(error, InstantiationException) else str(error)
        raise ValueError(cause if f"{key}." in cause else f"{key}: {cause}") from None
    if not isinstance(part, kind):
        raise ValueError(f"{key}: expected a {kind.__name__}, found {node._target_}")
    return part


def absent(folder: Path) -> list[Path]:
    """Return those of `folder` and the folders above it that do not exist, innermost first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]


@contextmanager
def taken_back(new_folders: list[Path], is_empty: Callable[[Path], bool]) -> Iterator[None]:
    """Remove the folder that the block made if the block fails before the folder holds anything worth keeping.

    Args:
        new_folders: The folders that were `absent` before, the folder itself first; others are never touched.
        is_empty: Whether the folder holds nothing worth keeping.
    """
    try:
        yield
    except Exception:
        if new_folders and new_folders[0].exists() and is_empty(new_folders[0]):
            shutil.rmtree(new_folders[0])
            for parent in new_folders[1:]:
                with suppress(OSError):  # another process has put something there
                    parent.rmdir()
        raise
