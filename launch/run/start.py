"""The model that a run starts from: found before the folder is opened, since the run's config is to tell its sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from torch import Tensor

FROM_START = ("model", "width", "depth", "data/tokenizer")
"""What a start settles, which the command line can then only repeat."""


@dataclass(frozen=True)
class Begun:
    """What a run starts from: weights, and what provenance.json says of them."""

    weights: "dict[str, Tensor]"
    provenance: dict[str, Any]


def settle(cfg: DictConfig, typed: Sequence[str]) -> Begun | None:
    """Loads the model of `cfg.start`, and makes `cfg` say what will be trained: its net, sizes and tokenizer.

    Args:
        cfg: the config, changed in place.
        typed: the overrides of the command line.

    Returns:
        None without a start.

    Raises:
        ValueError: it cannot be loaded or be started from, or the command line asks for another model.
    """
    import settings

    if cfg.start is None:
        if settings.classifies(cfg):
            _learn_at(cfg, "lr_scratch")
        return None
    from launch.run.alignment import context_of
    from models import references
    from models.starts import start_of

    reference = references.load(cfg.start, cfg.runs_dir)
    start = start_of(reference, head=not settings.classifies(cfg))
    _refuse_contradictions(cfg.start, start, typed)
    path, most = reference.provenance["tokenizer_path"], context_of(reference.model)
    if path is None:
        raise ValueError(f"start={cfg.start}: there is no tokenizer.json beside it, and its tokens have to be known")
    if most is not None and cfg.data.n_ctx > most:
        raise ValueError(
            f"data.n_ctx={cfg.data.n_ctx}: {cfg.start} reads at most {most} tokens; type data.n_ctx={most}"
        )
    with open_dict(cfg):
        cfg.model, cfg.width, cfg.depth = OmegaConf.create(start.settings), start.width, start.depth
        cfg.data.tokenizer = {"_target_": "data.tokenizers.TokenizerFile", "path": path}
    if start.settings["family"] == "pretrained":
        _learn_at(cfg, "lr_pretrained")
    return Begun(start.weights, reference.provenance)


def _learn_at(cfg: DictConfig, key: str) -> None:
    """Lets every weight learn at one rate of the config, where its optimizer has a rate of that name."""
    if key in cfg.optim:
        cfg.optim.lr_matrices = cfg.optim.lr_other = cfg.optim.lr_head = cfg.optim[key]


def _refuse_contradictions(uri: str, start: Any, typed: Sequence[str]) -> None:
    """Raises ValueError where the command line names another model than the start."""
    theirs = {"model": start.settings["family"], "width": str(start.width), "depth": str(start.depth)}
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
