"""The models that a study needs, and the training of missing ones by sweeps of `python train.py`."""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

import settings
from callbacks import signals
from launch.cli.compose import compose
from launch.machine import choose_precision
from launch.run.folder import read_json, without_missing
from models.build import build_net
from studies.common.results import claim

ROOT = Path(__file__).resolve().parents[2]
# A study measures the checkpoints itself and needs no curves.
QUIET = ("logger=none", "~callbacks.tracker")
SECONDS_TO_START = 4


@dataclass(frozen=True)
class Sweep:
    """Trainings that differ in family, width, depth and seed.

    Attributes:
        families, widths, depths, seeds: every combination is one training.
        data_order: seed of the order of the text; None if it follows the run's seed.
        overrides: further overrides, the same for all trainings.
        init_from: the model that all trainings start from; its family, width and depth are theirs. None for none.
        label: replaces family, width and depth in the names of the runs.
    """

    families: tuple[str, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    seeds: tuple[int, ...]
    data_order: int | None = None
    overrides: tuple[str, ...] = ()
    init_from: str | None = None
    label: str = ""

    @property
    def names(self) -> list[str]:
        """Return the names of the runs, as `train.py` forms them, with a separate data order at the end."""
        end = "" if self.data_order is None else f"-o{self.data_order}"
        if self.label:
            return [f"{self.label}-s{seed}{end}" for seed in self.seeds]
        shapes = product(self.families, self.widths, self.depths, self.seeds)
        return [f"{family}-w{width}-d{depth}-s{seed}{end}" for family, width, depth, seed in shapes]

    def command(self, runs_dir: Path) -> list[str]:
        """Return the arguments of `python train.py`."""
        label = self.label or "${model.family}-w${width}-d${depth}"
        name = f"name={label}-s${{seed}}"
        order = [] if self.data_order is None else [f"data_seed={self.data_order}"]
        keys = {"model": self.families, "width": self.widths, "depth": self.depths, "seed": self.seeds}
        if self.init_from is not None:
            keys = {"init_from": (self.init_from,), "seed": self.seeds}
        swept = [f"{key}={','.join(map(str, values))}" for key, values in keys.items()]
        name = name if self.data_order is None else f"{name}-o{self.data_order}"
        folders = [f"runs_dir={runs_dir}", f"hydra.sweep.dir={runs_dir}/.sweeps/{self.names[0]}"]
        return ["-m", *swept, *order, name, *folders, *self.overrides, *QUIET]


def size_of(cfg: DictConfig, sizes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a study trains at `size=...`.

    Raises:
        ValueError: The study does not have that size.
    """
    if cfg.size not in sizes:
        raise ValueError(f"size={cfg.size}: expected one of {', '.join(sizes)}")
    return sizes[cfg.size]


def trained(cfg: DictConfig, study: str, sweeps: Sequence[Sweep]) -> list[str]:
    """Train the missing models of a study under runs_dir/STUDY-SIZE and return the URIs of all.

    Raises:
        ValueError: A training failed.
    """
    runs_dir = Path(cfg.runs_dir) / f"{study}-{cfg.size}"
    claim(Path(cfg.results_dir) / settings.study_name(cfg), cfg)
    train_missing(sweeps, runs_dir)
    return [f"runs/{runs_dir.name}/{name}" for sweep in sweeps for name in sweep.names]


def train_missing(sweeps: Sequence[Sweep], runs_dir: Path) -> None:
    """Print how long the missing trainings take, then run them; interrupted ones continue.

    Raises:
        ValueError: A training failed. The table of the sweep, printed above, says why.
    """
    missing = {sweep: count for sweep in sweeps if (count := len(unfinished(sweep, runs_dir)))}
    if not missing:
        return
    terminal = Console(stderr=True, highlight=False)
    minutes = sum(_seconds(sweep, count) for sweep, count in missing.items()) / 60
    terminal.print(
        f"{sum(missing.values())} models to train first, under {escape(str(runs_dir))}: about {minutes:.0f} min on "
        "this processor",
        soft_wrap=True,
    )
    for sweep in missing:
        command = sweep.command(runs_dir)
        terminal.print(f"python train.py {shlex.join(command)}", style="dim", markup=False, soft_wrap=True)
        if exit_code([sys.executable, str(ROOT / "train.py"), *command]) or unfinished(sweep, runs_dir):
            raise ValueError(
                f"not all models were trained: {', '.join(unfinished(sweep, runs_dir)) or 'see above'}; the table "
                "above says why. Run the same command again to continue"
            )


def exit_code(command: list[str]) -> int:
    """Run a training and return its exit code; a signal to this program ends the training too, after its step.

    The training is a process group of its own, so that Ctrl-C, which the terminal sends to a group, does not reach it
    twice: the second signal would end it before it is saved.
    """
    process = subprocess.Popen(command, process_group=0)
    try:
        return process.wait()
    except signals.Stopped as stop:
        process.send_signal(stop.signum)
        process.wait()
        raise


def unfinished(sweep: Sweep, runs_dir: Path) -> list[str]:
    """Return the names of the runs that have not finished training."""
    return [name for name in sweep.names if read_json(runs_dir / name / "summary.json").get("status") != "finished"]


def _seconds(sweep: Sweep, count: int) -> float:
    """Estimate the duration of `count` trainings from a few timed steps of the largest shape, plus start-up."""
    shape = [f"model={sweep.families[0]}", f"width={max(sweep.widths)}", f"depth={max(sweep.depths)}", *sweep.overrides]
    if sweep.init_from is not None:  # the head size is not known yet; one head of full width takes as long
        shape.append(f"model.d_head={max(sweep.widths)}")
    cfg = compose(shape)
    d_vocab = cfg.data.tokenizer.get("vocab_size") or 4096
    net = build_net(without_missing(cfg.model), d_vocab, 0)
    tokens = torch.zeros(cfg.data.batch_size, cfg.data.n_ctx + 1, dtype=torch.int64)
    timed = choose_precision("auto", net, tokens, torch.device("cpu")).step_seconds
    return count * (SECONDS_TO_START + cfg.trainer.max_steps * (timed or 0.0))
