"""The model that `init_from` names, resolved before the folder is opened because the run's config records its sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

import settings
from dissimilarity.loading.untrusted import read_tokenizer
from launch.cli.rules import matching, whole
from launch.run.contents import run_config
from launch.run.folder import is_over, read_json
from launch.run.form import check_form
from trusted import check

if TYPE_CHECKING:
    from torch import Tensor

FIXED = ("model", "width", "depth", "data/tokenizer")
"""What the initial model decides; the command line can only repeat it."""
TOKENIZER = "data.tokenizers.TokenizerFile"
SIZES = {
    "width": whole(1),
    "depth": whole(1),
    "data.tokenizer.path": matching(r"(?s:(?!.*\$\{).*)", "a file, without an interpolation"),
}
"""What a config.yaml that was read says of the initial model, by the dotted names of its keys."""


@dataclass(frozen=True)
class InitialWeights:
    """The weights that a run begins from.

    Attributes:
        weights: The weights by their names in the net.
        provenance: What provenance.json records about them.
    """

    weights: "dict[str, Tensor]"
    provenance: dict[str, Any]


def resolve_init(cfg: DictConfig, typed: Sequence[str], folder: Path | None = None) -> InitialWeights | None:
    """Set the net, sizes and tokenizer in `cfg` from `cfg.init_from`, and load its weights if the run needs them.

    A run that has trained before does not need them, and its config.yaml records the sizes. It continues, or is found
    finished, even if the initial model has changed since or is gone.

    Args:
        cfg: The config, changed in place.
        typed: The overrides of the command line.
        folder: The folder of the run, which may have trained before.

    Returns:
        The weights, or None where `init_from` is null or the run does not need them.

    Raises:
        ValueError: If the model cannot be loaded or trained further, or the command line asks for a different one.
    """
    if cfg.init_from is None:
        if settings.classifies(cfg):
            _set_learning_rate(cfg, "lr_scratch")
        return None
    earlier = None if folder is None or cfg.overwrite else _earlier_config(cfg.init_from, folder)
    if earlier is not None:
        _take_over(cfg, typed, *earlier)
        return None
    from dissimilarity.loading.context import context_of
    from launch.run.references import unfinished
    from models import references
    from models.initial_model import initial_model

    reference = references.load(cfg.init_from, cfg.runs_dir)
    initial = initial_model(reference, head=not settings.classifies(cfg))
    tokenizer, context = reference.provenance["tokenizer_path"], context_of(reference.model)
    if tokenizer is None:
        advice = references.unread_tokenizer(reference) or "has no tokenizer.json, without which it cannot read a text"
        raise ValueError(f"init_from={cfg.init_from} {advice}")
    if context is not None and cfg.data.n_ctx > context:
        raise ValueError(
            f"data.n_ctx={cfg.data.n_ctx}: {cfg.init_from} reads at most {context} tokens; type data.n_ctx={context}"
        )
    _take_over(cfg, typed, OmegaConf.create(initial.settings), initial.width, initial.depth, tokenizer)
    return InitialWeights(initial.weights, {**reference.provenance, **unfinished(cfg.init_from, reference)})


def tokenizer_of(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Return the data arguments that replace the initial model's tokenizer with the run's copy if the two differ.

    The cache of packed text is keyed by the tokenizer file, so the initial model's file is used as long as it is the
    same.
    """
    copy = folder / "tokenizer.json"
    if cfg.init_from is None or not copy.exists() or _same_tokenizer(Path(cfg.data.tokenizer.path), copy):
        return {}
    return {"tokenizer": {"_target_": TOKENIZER, "path": str(copy)}}


def _same_tokenizer(first: Path, second: Path) -> bool:
    try:
        return read_tokenizer(first).to_str() == read_tokenizer(second).to_str()
    except ValueError:  # a file that is gone or damaged
        return False


def _earlier_config(uri: str, folder: Path) -> tuple[DictConfig, int, int, str] | None:
    """Return the net, width, depth and tokenizer file of a run that began from `uri`; None if it must start over.

    Raises:
        ValueError: If its config.yaml names something other than a net of this project and its sizes.
    """
    from models.build import NET

    path = folder / "config.yaml"
    over = is_over(read_json(folder / "summary.json"))
    if not (over or (folder / "checkpoints" / "last.ckpt").exists()):
        return None
    config = run_config(path)
    if config is None or config.get("init_from") != uri:
        return None
    check_form(config, SIZES, path)
    model = OmegaConf.create(check(config["model"], NET, path, "model"))
    return model, config["width"], config["depth"], config["data"]["tokenizer"]["path"]


def _take_over(cfg: DictConfig, typed: Sequence[str], model: Any, width: int, depth: int, tokenizer: str) -> None:
    """Write what the initial model decides into the config."""
    _refuse_contradictions(cfg.init_from, model.family, width, depth, typed)
    with open_dict(cfg):
        cfg.model, cfg.width, cfg.depth = model, width, depth
        cfg.data.tokenizer = {"_target_": TOKENIZER, "path": tokenizer}
    if model.family == "pretrained":
        _set_learning_rate(cfg, "lr_pretrained")


def _set_learning_rate(cfg: DictConfig, key: str) -> None:
    """Set every learning rate to the one that the optimizer's config has under `key`, if it has one."""
    if key in cfg.optim:
        cfg.optim.lr_matrices = cfg.optim.lr_other = cfg.optim.lr_head = cfg.optim[key]


def _refuse_contradictions(uri: str, family: str, width: int, depth: int, typed: Sequence[str]) -> None:
    """Raise ValueError where the command line asks for a model other than the initial one."""
    values = {"model": family, "width": str(width), "depth": str(depth)}
    for override in typed:
        key, _, value = override.lstrip("+").partition("=")
        for fixed in FIXED:
            is_fixed = key == fixed or key.startswith((f"{fixed}.", f"{fixed.replace('/', '.')}."))
            if is_fixed and value != values.get(key):
                actual = f"{key}={values[key]}" if key in values else f"its own {fixed.removeprefix('data/')}"
                raise ValueError(
                    f"{override} and init_from={uri}: the run continues the model that it begins from, which has "
                    f"{actual}; leave {key}= out, or begin from another model"
                )
