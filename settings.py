"""The typed root config, run names, what is checked before anything heavy, and the one way to build from a config."""

import re
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from dissimilarity.tracking.schedule import KEEP

PUBLISHED = {
    "pythia": ("hf:EleutherAI/pythia-{}", ("14m", "31m", "70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")),
    "tl": ("tl:{}", ("solu-3l", "gelu-3l", "solu-4l", "gelu-4l")),
}
"""The models that the paper read, by families of one tokenizer, for `models=`: where they are, and `sizes=`."""
SMALL = ("tl",)
"""Families of which all are meant where no sizes are given."""
ALIGN = {"unit": ("word", "token"), "take": ("last", "mean")}
NORMALIZE = ("none", "layer_norm", "unit_norm")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true")


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
    start: str | None = None
    references: list[str] = MISSING
    groups: Any = None
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
    study: Any = MISSING
    data: Any = None
    measures: Any = MISSING


def register() -> None:
    """Makes the types known to Hydra as the configs `settings` and `analysis`; doing it twice does no harm."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="settings", node=Settings)
    ConfigStore.instance().store(name="analysis", node=Analysis)


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
    model = f"{cfg.model.family}-w{cfg.width}-d{cfg.depth}" if cfg.start is None else _start_name(cfg.start)
    return f"{model}-{data_name(cfg)}-s{cfg.seed}" if cfg.start or classifies(cfg) else f"{model}-s{cfg.seed}"


def classifies(cfg: DictConfig) -> bool:
    """Whether a run is to tell labels apart (task=classify) rather than to train a language model."""
    return "pooling" in cfg.task


def data_name(cfg: DictConfig) -> str:
    """What to call the data of a run: its source's class, in small letters."""
    return str(cfg.data.source._target_).rpartition(".")[2].lower()


def _start_name(uri: str) -> str:
    """The last part of a URI as part of a folder's name."""
    last = uri.rstrip("/").rsplit("/", 1)[-1].removesuffix(".ckpt").removesuffix(".safetensors")
    return re.sub(r"[^\w.-]+", "-", last.rpartition(":")[2] if last.startswith("tl:") else last)


def validate(cfg: DictConfig) -> None:
    """Refuses what cannot train, in milliseconds and before anything is written.

    Raises:
        ValueError: one line a fault: the key, what was found, what is expected.
    """
    faults = [*_unknown(cfg), *_positive(cfg), *_heads(cfg), *_choices(cfg), *_probe(cfg), *_control(cfg)]
    faults += [*_name(cfg), *_batch(cfg)]
    if faults:
        raise ValueError("\n".join(faults))


def validate_analysis(cfg: DictConfig) -> None:
    """As `validate`, for analyze.py: what no study can do anything with.

    Raises:
        ValueError: one line a fault: the key, what was found, what is expected.
    """
    faults = [*_unknown(cfg, Analysis), *_models(cfg)]
    for key, least in (("sequences", 2), ("length", 1)):
        value = cfg.probe[key]
        if value is not None and value < least:
            faults.append(f"probe.{key}={value}: expected a whole number, {least} or more, or null")
    if cfg.probe.split not in (None, "train", "val"):
        faults.append(f"probe.split={cfg.probe.split}: expected train, val or null")
    faults += _control(cfg)
    if cfg.device not in ("auto", "cpu", "gpu", "mps"):
        faults.append(f"device={cfg.device}: expected auto, cpu, gpu or mps")
    if cfg.sites is not None:
        faults += _sites(cfg)
    if not cfg.measures:
        faults.append(f"measures={cfg.measures}: expected a set of measures, such as measures=default")
    if cfg.name is not None and not _is_folder_name(cfg.name):
        faults.append(f"name={cfg.name!r}: the results' folder: no / \\ @ = , and no blanks in it")
    if faults:
        raise ValueError("\n".join(faults))


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


def _unknown(cfg: DictConfig, types: type = Settings) -> list[str]:
    """Root keys that nothing reads: `+widht=64` gets past Hydra, which takes the + for intent."""
    known = [field.name for field in fields(types)]
    return [f"+{key}: nothing reads this key; root keys are {', '.join(known)}" for key in cfg if str(key) not in known]


def _models(cfg: DictConfig) -> list[str]:
    """`models` that are no list and no published family, and sizes that it does not have."""
    if isinstance(cfg.models, str) and cfg.models in PUBLISHED:
        known = PUBLISHED[cfg.models][1]
        strangers = [size for size in cfg.sizes or [] if size not in known]
        if strangers or not (cfg.sizes or cfg.models in SMALL):
            shown = f"[{','.join(cfg.sizes)}]" if cfg.sizes else cfg.sizes
            return [f"sizes={shown}: expected sizes of models={cfg.models}, out of {', '.join(known)}"]
        return []
    if not isinstance(cfg.models, ListConfig):
        families = " or ".join(f"models={name}" for name in PUBLISHED)
        return [f"models={cfg.models}: expected a list, such as models=[{cfg.models}], or {families}"]
    if not all(isinstance(model, str) and model for model in cfg.models):
        return [f"models={list(cfg.models)}: expected a list of references, such as models=[runs/a,runs/b]"]
    if cfg.sizes is not None:
        return [f"sizes=[{','.join(cfg.sizes)}]: sizes are of a published family, such as models=pythia"]
    return []


def _positive(cfg: DictConfig) -> list[str]:
    keys = {
        "width": 1,
        "depth": 1,
        "data.n_ctx": 1,
        "data.batch_size": 1,
        "trainer.max_steps": 1,
        "schedule.every": 1,
        "schedule.heatmap_every": 1,
        "probe.sequences": 2,
        "probe.length": 1,
        "trainer.accumulate_grad_batches": 1,
    }
    faults = []
    for key, least in keys.items():
        value = OmegaConf.select(cfg, key)
        if value is None and key == "trainer.accumulate_grad_batches":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            faults.append(f"{key}={value}: expected a whole number, {least} or more")
    return faults


def _heads(cfg: DictConfig) -> list[str]:
    d_head = OmegaConf.select(cfg, "model.d_head")
    if not isinstance(d_head, int) or cfg.width < 1:
        return []
    if d_head < 1:
        return [f"model.d_head={d_head}: expected a whole number, 1 or more"]
    if cfg.width % d_head == 0:
        return []
    below = cfg.width // d_head * d_head
    legal = [width for width in (below, below + d_head) if width > 0]
    nearest = " or ".join(f"width={width}" for width in legal)
    divisors = [d for d in (16, 32, 64, 128) if cfg.width % d == 0 and d <= cfg.width]
    smaller = f", or a head size that divides it, such as model.d_head={divisors[-1]}" if divisors else ""
    return [
        f"width={cfg.width}: the heads are model.d_head={d_head} wide and {d_head} does not divide {cfg.width}; "
        f"nearest that work: {nearest}{smaller}"
    ]


def _choices(cfg: DictConfig) -> list[str]:
    faults = []
    if cfg.compile not in ("auto", True, False):
        faults.append(f"compile={cfg.compile}: expected auto, true or false")
    precision = str(OmegaConf.select(cfg, "trainer.precision"))
    if precision not in PRECISIONS:
        faults.append(f"trainer.precision={precision}: expected one of {', '.join(PRECISIONS)}")
    if cfg.probe.precision is not None and cfg.probe.precision not in PRECISIONS[1:]:
        faults.append(f"probe.precision={cfg.probe.precision}: expected null or one of {', '.join(PRECISIONS[1:])}")
    if not 0 < cfg.track.budget <= 1:
        faults.append(f"track.budget={cfg.track.budget}: expected a share of the training time, above 0 and up to 1")
    if cfg.checkpoints.keep not in KEEP:
        faults.append(f"checkpoints.keep={cfg.checkpoints.keep}: expected one of {', '.join(KEEP)}")
    faults += _sites(cfg)
    if any(not reference for reference in cfg.references):
        faults.append("references: one of them is empty")
    return [*faults, *_groups(cfg)]


def _groups(cfg: DictConfig) -> list[str]:
    """Groups that are empty, of no word, of what is no reference, or that share one."""
    if cfg.groups is None:
        return []
    if not isinstance(cfg.groups, DictConfig) or not all(isinstance(of, ListConfig) for of in cfg.groups.values()):
        return [f"groups={cfg.groups}: expected names with lists of references, such as {{good:[runs/a],bad:[runs/b]}}"]
    faults, known = [], ",".join(cfg.references)
    seen: dict[str, str] = {}
    for name, members in cfg.groups.items():
        if not re.fullmatch(r"\w+", str(name)):
            faults.append(f"groups: {name!r}: expected a name of letters, digits and _, such as good")
        if not members:
            faults.append(f"groups.{name}: expected one reference or more, found none")
        for uri in members:
            if uri not in cfg.references:
                faults.append(f"groups.{name}: {uri} is not among references=[{known}]; list it there too")
            if uri in seen:
                faults.append(f"groups.{name}: {uri} is in {seen[uri]} already; leave it in one of them")
            seen[uri] = str(name)
    return faults


def _sites(cfg: DictConfig) -> list[str]:
    sites = [cfg.sites] if isinstance(cfg.sites, str) else cfg.sites
    if not isinstance(sites, (list, ListConfig)) or not sites or not all(isinstance(s, str) and s for s in sites):
        return [f"sites={cfg.sites}: expected a name such as blocks.*.resid_post, or a list of them"]
    return []


def _probe(cfg: DictConfig) -> list[str]:
    faults = []
    if cfg.probe.split not in ("train", "val"):
        faults.append(f"probe.split={cfg.probe.split}: expected train or val")
    n_ctx = OmegaConf.select(cfg, "data.n_ctx")
    if isinstance(n_ctx, int) and cfg.probe.length > n_ctx:
        faults.append(f"probe.length={cfg.probe.length}: longer than the model's context; at most data.n_ctx={n_ctx}")
    return faults


def _control(cfg: DictConfig) -> list[str]:
    """Values out of range, or that leave no position of a sequence, where its length is known."""
    control, faults = cfg.control, []
    for key, least in (("skip_first", 0), ("drop_top_norm", 0), ("every", 1)):
        if control[key] < least:
            faults.append(f"control.{key}={control[key]}: expected a whole number, {least} or more")
    if control.normalize not in NORMALIZE:
        faults.append(f"control.normalize={control.normalize}: expected one of {', '.join(NORMALIZE)}")
    for key, choices in ALIGN.items():
        if cfg.align[key] not in choices:
            faults.append(f"align.{key}={cfg.align[key]}: expected {' or '.join(choices)}")
    length = cfg.probe.length
    if faults or length is None:
        return faults
    left = len(range(control.skip_first, length, control.every)) - control.drop_top_norm
    if left < 1:
        keys = ", ".join(f"control.{key}={control[key]}" for key in ("skip_first", "every", "drop_top_norm"))
        return [f"{keys}: none of the probe.length={length} positions of a sequence would be left; lower them"]
    return []


def _name(cfg: DictConfig) -> list[str]:
    name = run_name(cfg)
    if not _is_folder_name(name):
        return [f"name={name!r}: a run's name is a folder and part of a reference: no / \\ @ = , and no blanks in it"]
    return []


def _is_folder_name(name: str) -> bool:
    return name not in ("", ".", "..") and not any(character in name for character in "/\\@=, \n")


def _batch(cfg: DictConfig) -> list[str]:
    devices, nodes = OmegaConf.select(cfg, "trainer.devices"), OmegaConf.select(cfg, "trainer.num_nodes") or 1
    batch = OmegaConf.select(cfg, "data.batch_size")
    if not isinstance(devices, int) or not isinstance(batch, int) or devices < 1 or batch % (devices * nodes) == 0:
        return []
    processes = devices * nodes
    return [
        f"data.batch_size={batch}: it is shared by {processes} processes and {processes} does not divide it; "
        f"nearest that work: {max(processes, batch // processes * processes)} or {(batch // processes + 1) * processes}"
    ]
