"""The typed root config, run names, and the one way to build from a config."""

import re
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import MISSING, DictConfig

PUBLISHED = {
    "pythia": ("hf:EleutherAI/pythia-{}", ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")),
    "tl": ("tl:{}", ("solu-3l", "gelu-3l", "solu-4l", "gelu-4l")),
}
"""The models that the paper read, by families of one tokenizer, for `models=`: where they are, and `sizes=`."""
SMALL = ("tl",)
"""Families of which all are meant where no sizes are given."""
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true")
"""Those a run trains in, by Lightning's names."""


@dataclass
class Schedule:
    """When to track and to save, in steps: 0, 1, 2, 4, ... up to `every`, then each multiple of it."""

    every: int = MISSING
    heatmap_every: int = MISSING


@dataclass
class Probe:
    """The fixed token sequences on which models are compared, and how they are run."""

    sequences: int = MISSING
    length: int = MISSING
    split: str = MISSING
    precision: str | None = None


@dataclass
class Control:
    """Which positions count and on what scale rows are compared; see dissimilarity/probe/outliers.py."""

    skip_first: int = MISSING
    drop_top_norm: int = MISSING
    every: int = MISSING
    normalize: str = MISSING


@dataclass
class Align:
    """How models of other tokenizers are compared; dissimilarity/probe/alignment.py says what each key does."""

    unit: str = MISSING
    take: str = MISSING


@dataclass
class Track:
    """How much of the training time tracking may take, 0 to 1."""

    budget: float = MISSING


@dataclass
class Checkpoints:
    """Which of the checkpoints on the schedule stay; dissimilarity/tracking/schedule.py says what each choice does."""

    keep: str = MISSING


@dataclass
class Settings:
    """Types of the root keys; their values and what they mean stand in conf/train.yaml."""

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
    sites: Any = MISSING
    schedule: Schedule = MISSING
    probe: Probe = MISSING
    include_padding: bool = MISSING
    control: Control = MISSING
    align: Align = MISSING
    track: Track = MISSING
    checkpoints: Checkpoints = MISSING
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
    """The probe set of a study; None: as the first run was tracked on."""

    sequences: int | None = None
    length: int | None = None
    split: str | None = None


@dataclass
class Analysis:
    """Types of the root keys of analyze.py; their values and what they mean stand in conf/analyze.yaml."""

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
    data_seed: int = MISSING
    runs_dir: str = MISSING
    results_dir: str = MISSING
    cache_dir: str = MISSING
    study: Any = MISSING
    data: Any = None
    measures: Any = MISSING


def register() -> None:
    """Makes the types known to Hydra as the configs `settings` and `analysis`; doing it twice does no harm."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="settings", node=Settings)
    ConfigStore.instance().store(name="analysis", node=Analysis)


def root_keys(command: str) -> list[str]:
    """The root keys of `train` or `analyze`."""
    return [field.name for field in fields(Settings if command == "train" else Analysis)]


def instantiate(config: dict[str, Any] | DictConfig, *args: Any, **kwargs: Any) -> Any:
    """Builds the object that `config["_target_"]` names; keyword arguments win over the config's.

    Raises:
        ValueError: as the constructor raised it, not wrapped in Hydra's own exception.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate

    try:
        return hydra_instantiate(config, *args, **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


def run_name(cfg: DictConfig) -> str:
    """`name` where it is given, else what is trained, on what, and the seed.

    `<family>-w<width>-d<depth>-s<seed>`; a start's name stands in the place of family and sizes, and where there is a
    start, or labels are told apart, the data's name in front of the seed: `base-heuristics-s0`.
    """
    if cfg.name:
        return cfg.name
    model = f"{cfg.model.family}-w{cfg.width}-d{cfg.depth}" if cfg.init_from is None else _initial_name(cfg.init_from)
    return f"{model}-{data_name(cfg)}-s{cfg.seed}" if cfg.init_from or classifies(cfg) else f"{model}-s{cfg.seed}"


def classifies(cfg: DictConfig) -> bool:
    """Whether a run is to tell labels apart (task=classify) rather than to train a language model."""
    return "pooling" in cfg.task


def data_name(cfg: DictConfig) -> str:
    """What to call the data of a run: its source's class, in small letters."""
    return str(cfg.data.source._target_).rpartition(".")[2].lower()


def _initial_name(uri: str) -> str:
    """The last part of a URI as part of a folder's name."""
    last = uri.rstrip("/").rsplit("/", 1)[-1].removesuffix(".ckpt").removesuffix(".safetensors")
    return re.sub(r"[^\w.-]+", "-", last.rpartition(":")[2] if last.startswith("tl:") else last)


def models_of(cfg: DictConfig) -> list[str]:
    """The URIs of the models that a study is to look at: those listed, or some sizes of a published family."""
    if isinstance(cfg.models, str):
        pattern, sizes = PUBLISHED[cfg.models]
        return [pattern.format(size) for size in cfg.sizes or sizes]
    return list(cfg.models)


def study_name(cfg: DictConfig) -> str:
    """`name` where it is given, else the name of the study's module."""
    modules = str(cfg.study._target_).split(".")[:-1]
    return cfg.name or next(module for module in reversed(modules) if module != "study")
