"""Trainings and checkpoints that the study `asymmetry` covers, and the text for fits and penalties."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.probe import probe_hash
from launch.cli.quiet import silence
from models.references import steps_of
from studies.asymmetry.stitches import HeldOutText
from studies.common.runs import config_of, data_of_run
from studies.common.trainings import Sweep

ROLES = ("others", "narrow", "orders")
"""Trainings beside the main ones: other families, a narrower second family, siblings that read the text in another
order."""


def sweeps_of_size(size: Mapping[str, Any], families: Sequence[str], others: Sequence[str]) -> dict[str, Sweep]:
    """Return the trainings of a size by role, `main` first."""
    widths, depths, seeds = (tuple(size[key]) for key in ("widths", "depths", "seeds"))
    deepest, widest, overrides = depths[-1:], widths[-1:], tuple(size["train"])
    return {
        "main": Sweep(tuple(families), widths, depths, seeds, overrides=overrides),
        "others": Sweep(tuple(others), widest, deepest, seeds, overrides=overrides),
        "narrow": Sweep((families[1],), (size["narrow"],), deepest, seeds, overrides=overrides),
        "orders": Sweep(tuple(families), widest, deepest, seeds[:1], data_order=seeds[1], overrides=overrides),
    }


def common_steps(runs_dir: Path, names: Sequence[str], count: int) -> list[int]:
    """Return up to `count` steps at which every run has a checkpoint: the last one, its half, its quarter and so on."""
    common = set.intersection(*(set(steps_of(runs_dir / name)) for name in names))
    steps = [max(common)]
    while len(steps) < count:
        earlier = [step for step in common if 0 < step <= steps[0] / 2]
        if not earlier:
            break
        steps.insert(0, max(earlier))
    return steps


def text_of_run(folder: Path, cache_dir: str, fit: int, held_out: int, length: int) -> HeldOutText:
    """Return the held-out text of a run in its own tokens, divided into `fit` and `held_out` sequences."""
    silence()
    data = data_of_run(config_of(folder), folder, cache_dir)
    return divided(data.probe(fit + held_out, length, "val"), held_out, data.bytes_per_token)


def divided(tokens: Tensor, held_out: int, bytes_per_token: float) -> HeldOutText:
    """Divide sequences: `held_out` evenly spaced ones measure penalties, the others fit maps.

    Examples:
        >>> text = divided(torch.arange(6)[:, None], 2, 4.0)
        >>> text.held_out.flatten().tolist(), text.fit.flatten().tolist()
        ([0, 3], [1, 2, 4, 5])
    """
    section = torch.arange(len(tokens)) * held_out // len(tokens)
    measured = torch.cat([torch.tensor([True]), section[1:] != section[:-1]])
    return HeldOutText(tokens[~measured], tokens[measured], bytes_per_token, probe_hash(tokens))
