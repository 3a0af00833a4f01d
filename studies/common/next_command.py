"""The command that a reader of a study's results would want to run next."""

import shlex
from collections.abc import Sequence

from omegaconf import DictConfig

SIZES = ("small", "medium", "paper")
ALL_MEASURES = 10
"""Sets of measures of this size or larger count as measures=all."""


def with_all_measures(cfg: DictConfig, study: str, uris: Sequence[str]) -> str | None:
    """Return the command that repeats a study of given models with every measure; None if `cfg` has them."""
    if len(cfg.measures) >= ALL_MEASURES:
        return None
    return f"python analyze.py study={study} {models_override(uris)} measures=all name={study}_all"


def larger(cfg: DictConfig, study: str) -> str | None:
    """Return the command of the next larger size of a study that trains its models; None for the largest.

    Example:
        >>> larger(DictConfig({"size": "small"}), "scaling")
        'python analyze.py study=scaling size=medium name=scaling_medium'
    """
    sizes = SIZES[SIZES.index(cfg.size) + 1 :] if cfg.size in SIZES else ()
    return f"python analyze.py study={study} size={sizes[0]} name={study}_{sizes[0]}" if sizes else None


def models_override(uris: Sequence[str]) -> str:
    """Return `models=[...]`, quoted for the shell if a URI has blanks.

    Example:
        >>> models_override(["runs/a", "runs/b"])
        'models=[runs/a,runs/b]'
    """
    override = f"models=[{','.join(uris)}]"
    return shlex.quote(override) if " " in override else override
