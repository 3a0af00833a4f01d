"""The typed root config, run names, and the one way to build from a config."""

import re
from dataclasses import dataclass, fields
from glob import escape, glob
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig

PUBLISHED = {
    "pythia": ("hf:EleutherAI/pythia-{}", ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")),
    "tl": ("tl:{}", ("solu-3l", "gelu-3l", "solu-4l", "gelu-4l")),
}
"""Published models for `models=`, by families with one tokenizer: a pattern of URIs, and the values of `sizes=`."""
FILES = (".ckpt", ".safetensors", ".npy")
"""Endings of files that a glob in `models=` may match."""
OF_RUNS = ("config.yaml", "curves.parquet", "curves.jsonl")
"""Files of which a folder that it matches has one; a tracked training of one's own has no config."""
SMALL = ("tl",)
"""Families that stand for all their models if no sizes are given."""
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true")
"""Precisions that a run can train in, by Lightning's names."""


@dataclass
class Schedule:
    """When to measure and save, in steps: 0, 1, 2, 4, ... up to `every`, then each multiple of it."""

    every: int = MISSING
    heatmap_every: int = MISSING


@dataclass
class Probe:
    """The probe set on which models are compared, and the precision in which they run on it."""

    sequences: int = MISSING
    length: int = MISSING
    split: str = MISSING
    precision: str | None = None


@dataclass
class Control:
    """Which positions to use and how to normalize samples; see dissimilarity/probe/outliers.py."""

    skip_first: int = MISSING
    drop_top_norm: int = MISSING
    every: int = MISSING
    normalize: str = MISSING


@dataclass
class Align:
    """How to compare models with different tokenizers; see dissimilarity/probe/alignment.py."""

    unit: str = MISSING
    take: str = MISSING


@dataclass
class Track:
    """The share of the training time that tracking may take, from 0 to 1; None for no limit."""

    budget: float | None = MISSING


@dataclass
class Checkpoints:
    """Which checkpoints of the schedule stay on disk; see dissimilarity/tracking/schedule.py."""

    keep: str = MISSING


@dataclass
class Figures:
    """Files and colors of figures; see dissimilarity/figures/options.py."""

    formats: list[str] = MISSING
    scale: str | None = None
    dark: str = MISSING


@dataclass
class Settings:
    """Types of the root keys of train.py; conf/train.yaml has their values and meanings."""

    width: int = MISSING
    depth: int = MISSING
    seed: int = MISSING
    init_seed: int = MISSING
    data_seed: int = MISSING
    name: str | None = None
    overwrite: bool = MISSING
    compile: Any = MISSING
    init_from: str | None = None
    references: list[str] = MISSING
    reference_groups: Any = None
    alerts: Any = MISSING
    sites: Any = MISSING
    schedule: Schedule = MISSING
    probe: Probe = MISSING
    include_padding: bool = MISSING
    control: Control = MISSING
    align: Align = MISSING
    track: Track = MISSING
    checkpoints: Checkpoints = MISSING
    figures: Figures = MISSING
    optimized_metric: str = MISSING
    runs_dir: str = MISSING
    task: Any = MISSING
    model: Any = MISSING
    data: Any = MISSING
    optim: Any = MISSING
    measures: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    callbacks: Any = MISSING


@dataclass
class ProbeOfRun:
    """The probe set of a study; None = that of the first run."""

    sequences: int | None = None
    length: int | None = None
    split: str | None = None


@dataclass
class Analysis:
    """Types of the root keys of analyze.py; conf/analyze.yaml has their values and meanings."""

    models: Any = MISSING
    size: str = MISSING
    sizes: list[str] | None = None
    sites: Any = None
    name: str | None = None
    overwrite: bool = MISSING
    device: str = MISSING
    probe: ProbeOfRun = MISSING
    include_padding: bool = MISSING
    control: Control = MISSING
    align: Align = MISSING
    figures: Figures = MISSING
    data_seed: int = MISSING
    runs_dir: str = MISSING
    results_dir: str = MISSING
    cache_dir: str = MISSING
    study: Any = MISSING
    data: Any = None
    measures: Any = MISSING


def register() -> None:
    """Register the types with Hydra as the configs `settings` and `analysis`; calling it twice is harmless."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="settings", node=Settings)
    ConfigStore.instance().store(name="analysis", node=Analysis)


def root_keys(command: str) -> list[str]:
    """Return the root keys of `train` or `analyze`.

    Examples:
        >>> root_keys("analyze")[:3]
        ['models', 'size', 'sizes']
    """
    return [field.name for field in fields(Settings if command == "train" else Analysis)]


def instantiate(config: dict[str, Any] | DictConfig, *args: Any, **kwargs: Any) -> Any:
    """Build the object that `config["_target_"]` names; keyword arguments take precedence over the config.

    Raises:
        ValueError: As the constructor raised it, not wrapped in an exception of Hydra; or if a package is missing.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate

    try:
        return hydra_instantiate(config, *args, **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise ValueError(f"{config['_target_']}: {str(error.__cause__).splitlines()[0]}") from None
        raise


def run_name(cfg: DictConfig) -> str:
    """Return `name` if it is given, else a name from the model, the data and the seed.

    The name is `<family>-w<width>-d<depth>-s<seed>`. With `init_from`, the initial model's name replaces family and
    sizes. With `init_from` or task=classify, the name of the data precedes the seed: `base-heuristics-s0`.
    """
    if cfg.name:
        return cfg.name
    model = f"{cfg.model.family}-w{cfg.width}-d{cfg.depth}" if cfg.init_from is None else _initial_name(cfg.init_from)
    return f"{model}-{data_name(cfg)}-s{cfg.seed}" if cfg.init_from or classifies(cfg) else f"{model}-s{cfg.seed}"


def classifies(cfg: DictConfig) -> bool:
    """Return whether a run trains a classifier (task=classify) rather than a language model."""
    return "pooling" in cfg.task


def data_name(cfg: DictConfig) -> str:
    """Return the name of the data of a run: the class of its source, in lower case."""
    return str(cfg.data.source._target_).rpartition(".")[2].lower()


def _initial_name(uri: str) -> str:
    """Return the last part of a URI, as part of the name of a folder."""
    last = uri.rstrip("/").rsplit("/", 1)[-1].removesuffix(".ckpt").removesuffix(".safetensors")
    return re.sub(r"[^\w.-]+", "-", last.rpartition(":")[2] if last.startswith("tl:") else last)


def models_of(cfg: DictConfig) -> list[str]:
    """Return the URIs of the models of a study: those listed, or some sizes of a published family.

    Globs such as `runs/solu-*` stand for the runs and files that match, each once, with numbers in their order.

    Raises:
        ValueError: Nothing matches a glob.
    """
    if isinstance(cfg.models, str):
        pattern, sizes = PUBLISHED[cfg.models]
        return [pattern.format(size) for size in cfg.sizes or sizes]
    return list(dict.fromkeys(model for uri in cfg.models for model in _matching(uri, cfg.runs_dir)))


def _matching(uri: str, runs_dir: str) -> list[str]:
    """Return the models that match a glob, with what precedes and follows its path; any other URI as it is."""
    scheme, colon, rest = uri.rpartition(":")
    path, at, step = rest.partition("@")
    if not re.search(r"[*?\[]", path) or scheme not in ("", "untrained"):
        return [uri]
    in_runs = path.startswith("runs/")
    found = [Path(name) for name in glob(f"{escape(runs_dir)}/{path.removeprefix('runs/')}" if in_runs else path)]
    models = [place for place in found if place.suffix in FILES or any((place / name).is_file() for name in OF_RUNS)]
    if not models:
        where = f"{runs_dir}/{path.removeprefix('runs/')}" if in_runs else path
        raise ValueError(f"models=[{uri}]: no run matches {where}; type the names of runs, such as models=[runs/a]")
    names = [f"runs/{place.relative_to(runs_dir).as_posix()}" if in_runs else place.as_posix() for place in models]
    return [f"{scheme}{colon}{name}{at}{step}" for name in sorted(names, key=_by_number)]


def _by_number(name: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts `s2` before `s10`."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def study_name(cfg: DictConfig) -> str:
    """Return `name` if it is given, else the name of the module of the study."""
    modules = str(cfg.study._target_).split(".")[:-1]
    return cfg.name or next(module for module in reversed(modules) if module != "study")
