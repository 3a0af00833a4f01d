"""The models that a study wants, and the training of those that are missing, by sweeps of `python train.py`."""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

import settings
from launch.cli.compose import compose
from launch.run.folder import read_json
from studies.common.results import claim

ROOT = Path(__file__).resolve().parents[2]
# No curves and no tables of them: a study measures the checkpoints itself.
QUIET = ("logger=none", "~callbacks.tracker")


@dataclass(frozen=True)
class Sweep:
    """Trainings that differ in family, width, depth and seed.

    Attributes:
        families, widths, depths, seeds: every combination is one training.
        order: None, or the seed of the order of the text, which else follows the run's seed.
        more: further overrides, the same for all.
        start: None, or the model that all go on with; family, width and depth, one each, are then its own.
        label: in names in the place of family, width and depth.
    """

    families: tuple[str, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    seeds: tuple[int, ...]
    order: int | None = None
    more: tuple[str, ...] = ()
    start: str | None = None
    label: str = ""

    @property
    def names(self) -> list[str]:
        """The runs, as `train.py` would name them; an order of its own stands at the end."""
        end = "" if self.order is None else f"-o{self.order}"
        if self.label:
            return [f"{self.label}-s{seed}{end}" for seed in self.seeds]
        every = product(self.families, self.widths, self.depths, self.seeds)
        return [f"{family}-w{width}-d{depth}-s{seed}{end}" for family, width, depth, seed in every]

    def command(self, runs_dir: Path) -> list[str]:
        """Arguments of `python train.py`."""
        label = self.label or "${model.family}-w${width}-d${depth}"
        name = f"name={label}-s${{seed}}"
        order = [] if self.order is None else [f"data_seed={self.order}"]
        keys = {"model": self.families, "width": self.widths, "depth": self.depths, "seed": self.seeds}
        if self.start is not None:
            keys = {"init_from": (self.start,), "seed": self.seeds}
        chosen = [f"{key}={','.join(map(str, values))}" for key, values in keys.items()]
        name = name if self.order is None else f"{name}-o{self.order}"
        places = [f"runs_dir={runs_dir}", f"hydra.sweep.dir={runs_dir}/.sweeps/{self.names[0]}"]
        return ["-m", *chosen, *order, name, *places, *self.more, *QUIET]


def size_of(cfg: DictConfig, sizes: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a study trains at `size=...`; raises ValueError for one that it does not have."""
    if cfg.size not in sizes:
        raise ValueError(f"size={cfg.size}: expected one of {', '.join(sizes)}")
    return sizes[cfg.size]


def trained(cfg: DictConfig, study: str, sweeps: Sequence[Sweep]) -> list[str]:
    """URIs of the models of a study that trains its own, under runs_dir/STUDY-SIZE, trained where they are missing.

    Raises:
        ValueError: the results are another command's, or a training failed.
    """
    runs_dir = Path(cfg.runs_dir) / f"{study}-{cfg.size}"
    claim(Path(cfg.results_dir) / settings.study_name(cfg), cfg)
    train_missing(sweeps, runs_dir)
    return [f"runs/{runs_dir.name}/{name}" for sweep in sweeps for name in sweep.names]


def train_missing(sweeps: Sequence[Sweep], runs_dir: Path) -> None:
    """Trains what is not finished, and says first how long that takes; what was interrupted goes on.

    Raises:
        ValueError: a training failed; the sweep's table, which says why, stands above.
    """
    missing = [sweep for sweep in sweeps if unfinished(sweep, runs_dir)]
    if not missing:
        return
    terminal = Console(stderr=True, highlight=False)
    count = sum(len(unfinished(sweep, runs_dir)) for sweep in missing)
    minutes = sum(_seconds(sweep, len(unfinished(sweep, runs_dir))) for sweep in missing) / 60
    terminal.print(
        f"{count} models to train first, under {runs_dir}: about {minutes:.0f} min on this processor", soft_wrap=True
    )
    for sweep in missing:
        command = sweep.command(runs_dir)
        terminal.print(f"python train.py {shlex.join(command)}", style="dim", markup=False, soft_wrap=True)
        done = subprocess.run([sys.executable, str(ROOT / "train.py"), *command], check=False)
        if done.returncode or unfinished(sweep, runs_dir):
            raise ValueError(
                f"not all models were trained, {', '.join(unfinished(sweep, runs_dir)) or 'see above'}: the table "
                "above says why; start the study again to go on"
            )


def unfinished(sweep: Sweep, runs_dir: Path) -> list[str]:
    """Those of its runs that have no finished training."""
    return [name for name in sweep.names if read_json(runs_dir / name / "summary.json").get("status") != "finished"]


def _seconds(sweep: Sweep, count: int) -> float:
    """About how long so many of its trainings take: some steps of its largest shape, timed, and a start each."""
    import torch

    from launch.machine import choose_precision
    from launch.run.folder import without_missing
    from models.build import build_net

    shape = [f"model={sweep.families[0]}", f"width={max(sweep.widths)}", f"depth={max(sweep.depths)}", *sweep.more]
    if sweep.start is not None:  # whose heads are not known yet; one of full width takes as long
        shape.append(f"model.d_head={max(sweep.widths)}")
    cfg = compose(shape)
    d_vocab = cfg.data.tokenizer.get("vocab_size") or 4096
    net = build_net(without_missing(cfg.model), d_vocab, 0)
    tokens = torch.zeros(cfg.data.batch_size, cfg.data.n_ctx + 1, dtype=torch.int64)
    measured = choose_precision("auto", net, tokens, torch.device("cpu")).step_seconds
    return count * (4 + cfg.trainer.max_steps * (measured or 0.0))
