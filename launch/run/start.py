"""The model that a run starts from: found before the folder is opened, since the run's config is to tell its sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from launch.run.contents import is_run_config
from launch.run.folder import is_over, read_json

if TYPE_CHECKING:
    from torch import Tensor

FROM_START = ("model", "width", "depth", "data/tokenizer")
"""What a start settles, which the command line can then only repeat."""
TOKENIZER = "data.tokenizers.TokenizerFile"


@dataclass(frozen=True)
class Begun:
    """What a run starts from: weights, and what provenance.json says of them."""

    weights: "dict[str, Tensor]"
    provenance: dict[str, Any]


def settle(cfg: DictConfig, typed: Sequence[str], folder: Path | None = None) -> Begun | None:
    """Makes `cfg` say what will be trained from `cfg.start`: its net, sizes and tokenizer; loads its weights if needed.

    A run that has begun does not need them, and what they settled stands in its config.yaml: it goes on, or is found
    finished, though the start has been trained on or is gone.

    Args:
        cfg: the config, changed in place.
        typed: the overrides of the command line.
        folder: of the run, where it may have begun already.

    Returns:
        None without a start, or where its weights are not needed.

    Raises:
        ValueError: it cannot be loaded or be started from, or the command line asks for another model.
    """
    import settings

    if cfg.start is None:
        if settings.classifies(cfg):
            _learn_at(cfg, "lr_scratch")
        return None
    begun = None if folder is None or cfg.overwrite else _begun_before(cfg.start, folder)
    if begun is not None:
        _take(cfg, typed, begun.model, begun.width, begun.depth, begun.data.tokenizer.path)
        return None
    from launch.run.alignment import context_of
    from launch.run.references import unfinished
    from models import references
    from models.starts import start_of

    reference = references.load(cfg.start, cfg.runs_dir)
    start = start_of(reference, head=not settings.classifies(cfg))
    path, most = reference.provenance["tokenizer_path"], context_of(reference.model)
    if path is None:
        raise ValueError(f"start={cfg.start}: there is no tokenizer.json beside it, and its tokens have to be known")
    if most is not None and cfg.data.n_ctx > most:
        raise ValueError(
            f"data.n_ctx={cfg.data.n_ctx}: {cfg.start} reads at most {most} tokens; type data.n_ctx={most}"
        )
    _take(cfg, typed, OmegaConf.create(start.settings), start.width, start.depth, path)
    return Begun(start.weights, {**reference.provenance, **unfinished(cfg.start, reference)})


def tokenizer_of(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """What the data of a run is built with that goes on without its start: its own tokenizer, if the start's changed.

    The packed data is kept by the file it was made with, so that the start's file is taken where it is the same.
    """
    own = folder / "tokenizer.json"
    if cfg.start is None or not own.exists() or _tokenizes_alike(Path(cfg.data.tokenizer.path), own):
        return {}
    return {"tokenizer": {"_target_": TOKENIZER, "path": str(own)}}


def _tokenizes_alike(path: Path, own: Path) -> bool:
    from tokenizers import Tokenizer

    from data.tokenizers import prepare

    try:
        first, second = (prepare(Tokenizer.from_file(str(file))).to_str() for file in (path, own))
    except Exception:  # tokenizers raises bare Exception for a file that is gone or damaged
        return False
    return first == second


def _begun_before(start: str, folder: Path) -> Any:
    """The config of a run that began from `start` and has weights of its own, or is over; None where there is none."""
    saved = folder / "config.yaml"
    over = is_over(read_json(folder / "summary.json"))
    if not (over or (folder / "checkpoints" / "last.ckpt").exists()) or not is_run_config(saved):
        return None
    config: Any = OmegaConf.load(saved)
    return config if config.get("start") == start else None


def _take(cfg: DictConfig, typed: Sequence[str], model: Any, width: int, depth: int, tokenizer: str) -> None:
    """Puts what a start settles into the config."""
    _refuse_contradictions(cfg.start, model.family, width, depth, typed)
    with open_dict(cfg):
        cfg.model, cfg.width, cfg.depth = model, width, depth
        cfg.data.tokenizer = {"_target_": TOKENIZER, "path": tokenizer}
    if model.family == "pretrained":
        _learn_at(cfg, "lr_pretrained")


def refuse_dev_run(cfg: DictConfig) -> None:
    """Refuses Lightning's fast_dev_run, after which the folder of the run would be one without tables and steps.

    Raises:
        ValueError: it is on; says what to type.
    """
    if cfg.trainer.get("fast_dev_run"):
        raise ValueError(
            f"trainer.fast_dev_run={cfg.trainer.fast_dev_run}: it trains without tables and checkpoints, which is no "
            "run; type debug=fdr for three steps through every part, in a folder of its own"
        )


def _learn_at(cfg: DictConfig, key: str) -> None:
    """Lets every weight learn at one rate of the config, where its optimizer has a rate of that name."""
    if key in cfg.optim:
        cfg.optim.lr_matrices = cfg.optim.lr_other = cfg.optim.lr_head = cfg.optim[key]


def _refuse_contradictions(uri: str, family: str, width: int, depth: int, typed: Sequence[str]) -> None:
    """Raises ValueError where the command line names another model than the start."""
    theirs = {"model": family, "width": str(width), "depth": str(depth)}
    for override in typed:
        key, _, value = override.lstrip("+").partition("=")
        for ours in FROM_START:
            named = key == ours or key.startswith((f"{ours}.", f"{ours.replace('/', '.')}."))
            if named and value != theirs.get(key):
                found = f"{key}={theirs[key]}" if key in theirs else f"{ours.replace('data/', 'a ')} of its own"
                raise ValueError(
                    f"{override} and start={uri}: the run goes on with the model it starts from, which has "
                    f"{found}; leave {key}= out, or start from another model"
                )
