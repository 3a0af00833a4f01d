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

    Examples:
        >>> larger(DictConfig({"size": "small"}), "scaling")
        'python analyze.py study=scaling size=medium name=scaling_medium'
    """
    sizes = SIZES[SIZES.index(cfg.size) + 1 :] if cfg.size in SIZES else ()
    return f"python analyze.py study={study} size={sizes[0]} name={study}_{sizes[0]}" if sizes else None


def models_override(uris: Sequence[str]) -> str:
    """Return `models=[...]`, quoted for the shell if a URI has spaces.

    Examples:
        >>> models_override(["runs/a", "runs/b"])
        'models=[runs/a,runs/b]'
    """
    override = f"models=[{','.join(uris)}]"
    return shlex.quote(override) if " " in override else override


def with_typed(command: str, typed: Sequence[str]) -> str:
    """Return a command with the overrides that the user typed, where it repeats their study and does not change them.

    Args:
        command: `python analyze.py study=...`.
        typed: the overrides of the command that has just run.

    Examples:
        >>> with_typed("python analyze.py study=scaling size=medium", ["study=scaling", "size=small", "device=cpu"])
        'python analyze.py study=scaling size=medium device=cpu'
    """
    changes = shlex.split(command)[2:]
    changed = {_key(change) for change in changes} | {"name", "overwrite"}
    same_study = [override for override in typed if _key(override) == "study"] == changes[:1]
    reused = [override for override in typed if same_study and _key(override) not in changed]
    return " ".join([command, *map(shlex.quote, reused)])


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
