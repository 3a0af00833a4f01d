"""The settings of conf/model and conf/optim as the LanguageModel takes them, and a small net of each family."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from models.build import build_net

CONF = Path(__file__).parents[2] / "conf"
FAMILIES = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


def family_config(family: str, width: int = 128, depth: int = 2, n_ctx: int = 24) -> dict[str, Any]:
    """Return conf/model/FAMILY.yaml with the root keys filled in, as plain values."""
    root = {"width": width, "depth": depth, "data": {"n_ctx": n_ctx}}
    config = OmegaConf.create({**root, "model": OmegaConf.load(CONF / "model" / f"{family}.yaml")})
    plain: Any = OmegaConf.to_container(config.model, resolve=True)
    return plain


def optim_config() -> dict[str, Any]:
    """Return conf/optim/adamw.yaml as plain values."""
    config: Any = OmegaConf.to_container(OmegaConf.load(CONF / "optim" / "adamw.yaml"))
    return config


def family_net(family: str, d_vocab: int = 61, seed: int = 0, **sizes: int) -> Any:
    """Return the net of a family as a run would build it."""
    return build_net(family_config(family, **sizes), d_vocab, seed)
