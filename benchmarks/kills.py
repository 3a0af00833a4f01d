"""Runs killed at random moments, and runs with a fault in a tick, compared bit for bit with undisturbed runs.

`python -m benchmarks kills --kills 100 --faults 20`. Every kill is at a random moment of the run: mostly SIGKILL,
sometimes SIGTERM or Ctrl-C. Every fault is in one tick: a measure raises, the table cannot be written, or there is no
memory for the capture. The same command then continues the run to its end, and final weights and optimizer, metrics,
curves, penalties and the list of checkpoints are compared. After a fault the rows of its tick may be NaN with a note.
Each run is a fork of this process, which has imported everything; no figures are drawn.
"""

import csv
import errno
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

import data.module
import data.text_classification  # noqa: F401 - imported once here, before the forks, instead of in every training
import launch.run.record  # noqa: F401
import models.references
import models.text_classifier  # noqa: F401
import train
from benchmarks.timing import show
from callbacks import signals
from callbacks.interrupted import Interrupted
from dissimilarity.lightning import DissimilarityTracker
from dissimilarity.measures.cka import CKA
from dissimilarity.tables.curves import Curves, read_curves
from dissimilarity.tables.journal import Journal
from dissimilarity.tracking import probe_reader, tables
from dissimilarity.tracking.schedule import ticks
from launch.cli.compose import compose
from launch.run.folder import read_json

FORK = multiprocessing.get_context("fork")
STEPS, EVERY = 24, 8
SIGNALS = (signal.SIGKILL,) * 4 + (signal.SIGTERM, signal.SIGINT)
FAULTS = ("a measure", "the table", "the capture")

LABELS = {"task": "classify", "data": "heuristics", "data.source.train": 60, "data.source.val": 20}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "references": {"references": "[init,previous,{other}]"},
    "stitching": {
        "callbacks": "stitching",
        "callbacks.stitching.sequences": 16,
        "callbacks.stitching.every": 8,
    },
    "accumulation": {"trainer.accumulate_grad_batches": 2, "data.batch_size": 4},
    "classify": {**LABELS, "data.source.ood": 10, "model.d_head": 8, "data.tokenizer.vocab_size": 300},
}


@dataclass(frozen=True)
class Tally:
    """Counts of the runs of one variant: disturbed, continued by the same command, and equal at the end."""

    variant: str
    disturbed: int = 0
    continued: int = 0
    equal: int = 0
    unequal: tuple[str, ...] = ()

    def __add__(self, other: "Tally") -> "Tally":
        sums = (self.disturbed + other.disturbed, self.continued + other.continued, self.equal + other.equal)
        return Tally(self.variant, *sums, self.unequal + other.unequal)


def run(kills: int = 100, faults: int = 20) -> None:
    """Print how many runs were disturbed, continued and equal."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        draw = random.Random(0)
        show(
            [
                {"variant": tally.variant, "disturbed": str(tally.disturbed)}
                | {"continued": str(tally.continued), "equal": str(tally.equal), "": "; ".join(tally.unequal)}
                for tally in campaign(Path(folder), list(VARIANTS), kills, faults, draw)
            ]
        )


def campaign(folder: Path, variants: Sequence[str], kills: int, faults: int, draw: random.Random) -> list[Tally]:
    """Disturb runs of each variant in turn.

    Args:
        folder: Folder of the runs.
        variants: Names of `VARIANTS`.
        kills: Number of kills over all variants.
        faults: Number of faults over all variants.
        draw: Draws signals, moments, ticks and kinds of fault.

    Returns:
        The kills and then the faults, per variant.
    """
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in _texts()))
    assert _ended(_config(folder, "other", {"trainer.max_steps": 4})) == 0, "the reference was not trained"
    killed, faulty = {name: Tally(f"{name}, killed") for name in variants}, {}
    faulty = {name: Tally(f"{name}, fault in a tick") for name in variants}
    whole, seconds = {}, {}
    for name in variants:
        start = time.monotonic()
        whole[name] = _folder(folder, name, "whole")
        assert _ended(_config(folder, name, VARIANTS[name], "whole")) == 0, f"{name} does not train"
        seconds[name] = time.monotonic() - start
    for number in range(kills + faults):
        name = variants[number % len(variants)]
        cfg = _config(folder, name, VARIANTS[name], str(number))
        run_folder = _folder(folder, name, str(number))
        if number < kills:
            disturbance = _kill(cfg, run_folder, seconds[name], draw)
            tally, step = killed, None
        else:
            step, kind = draw.choice(ticks(EVERY, STEPS)), FAULTS[number % len(FAULTS)]
            code = _ended(cfg, partial(_inject, kind, step))
            disturbance, tally = f"{kind} at step {step}, exit code {code}", faulty
        code = _ended(cfg)
        unequal = differences(whole[name], run_folder, step) if code == 0 else [f"exit code {code}"]
        report = tuple(f"{disturbance}: {difference}" for difference in unequal)
        tally[name] += Tally(name, 1, int(code == 0), int(not unequal), report)
        shutil.rmtree(run_folder.parent)
    return [*killed.values(), *(tally for tally in faulty.values() if tally.disturbed)]


def differences(expected: Path, actual: Path, faulty: int | None = None) -> list[str]:
    """Return what differs in any bit between two finished runs; the tick of a fault may have notes for values."""
    unequal = []
    last = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (expected, actual)]
    for key in ("state_dict", "optimizer_states"):
        if not same(*(checkpoint[key] for checkpoint in last)):
            unequal.append(key)
    names = [sorted(path.name for path in (run / "checkpoints").glob("*.ckpt")) for run in (expected, actual)]
    if names[0] != names[1]:
        unequal.append(f"checkpoints {sorted(set(names[0]) ^ set(names[1]))}")
    if not same(*(_metrics(run, losses=faulty is not None) for run in (expected, actual))):
        unequal.append("metrics.csv")
    curves = [read_curves(run).drop_columns("seconds").to_pylist() for run in (expected, actual)]
    if faulty is not None:
        for row in curves[1]:
            if row["step"] == faulty and math.isnan(row["value"]) and not row["note"]:
                unequal.append("a NaN without a note")
        if not any(row["step"] == faulty for row in curves[1]):
            unequal.append("no rows of the tick of the fault")
        curves = [[row for row in rows if row["step"] != faulty] for rows in curves]
    if not same(*curves):
        unequal.append("curves.parquet")
    if not same(*(_penalties(run) for run in (expected, actual))):
        unequal.append("penalties.jsonl")
    if read_json(actual / "summary.json").get("status") != "finished":
        unequal.append("summary.json")
    return unequal


def same(expected: Any, actual: Any) -> bool:
    """Return whether nested containers of tensors and plain values are equal to the last bit; NaN equals NaN."""
    if isinstance(expected, torch.Tensor):
        return torch.equal(expected, actual)
    if isinstance(expected, dict):
        return expected.keys() == actual.keys() and all(same(expected[key], actual[key]) for key in expected)
    if isinstance(expected, (list, tuple)):
        return len(expected) == len(actual) and all(map(same, expected, actual))
    return expected == actual or (expected != expected and actual != actual)


def _config(folder: Path, name: str, changes: dict[str, Any], number: str = "whole") -> DictConfig:
    other = _folder(folder, "other", "whole") / "checkpoints" / "step_0000004.ckpt"
    text = {"data": "files", "data.source.paths": f"[{folder}/text.jsonl]", "data.tokenizer.vocab_size": 300}
    text |= {"data.cache_dir": folder / "cache", "data.batch_size": 2, "data.val_sequences": 4}
    overrides = {
        **({} if "data" in changes else text),
        "data.n_ctx": 16,
        "runs_dir": _folder(folder, name, number).parent,
        "name": name,
        "width": 16,
        "depth": 1,
        "model.d_head": 8,
        "schedule.every": EVERY,
        "schedule.heatmap_every": EVERY,
        "probe.sequences": 16,
        "probe.length": 16,
        "trainer.max_steps": STEPS,
        "trainer.val_check_interval": 5,
        "trainer.log_every_n_steps": 1,
        "trainer.accelerator": "cpu",
        "trainer.precision": "32-true",
        "logger": "none",
        **changes,
    }
    return compose([f"{key}={str(value).format(other=other)}" for key, value in overrides.items()])


def _folder(folder: Path, name: str, number: str) -> Path:
    return folder / f"{name}-{number}" / name


def _texts() -> list[str]:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 7))) for _ in range(200)]
    return [" ".join(draw.choices(words, k=60)) for _ in range(120)]


def _kill(cfg: DictConfig, folder: Path, seconds: float, draw: random.Random) -> str:
    """Start a run until a signal has hit one before its end; return the signal and its time."""
    while True:
        signum, delay = draw.choice(SIGNALS), draw.uniform(0, seconds)
        process = _start(cfg)
        process.join(delay)
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, signum)
            process.join(120)
            if process.exitcode in (-signum, 128 + signum):
                return f"signal {signum} after {delay:.3f} s"
            if process.exitcode != 0:
                return f"signal {signum} after {delay:.3f} s (exit code {process.exitcode})"
        shutil.rmtree(folder.parent, ignore_errors=True)


def _ended(cfg: DictConfig, before: Callable[[], None] = lambda: None) -> int | None:
    process = _start(cfg, before)
    process.join(120)
    if process.exitcode is None:
        process.kill()
    return process.exitcode


def _start(cfg: DictConfig, before: Callable[[], None] = lambda: None) -> Any:
    process = FORK.Process(target=_train, args=(cfg, before))
    process.start()
    return process


def _train(cfg: DictConfig, before: Callable[[], None]) -> None:
    signals.take_over()
    tables.draw_run = lambda folder, **options: []
    Path(cfg.runs_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(cfg.runs_dir) / "output.txt", "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    before()
    try:
        train.train(cfg)
    except Interrupted as error:
        sys.exit(128 + error.signum)


def _inject(kind: str, step: int) -> None:
    """Make one part of the tick at a step fail in this process."""
    tick, in_tick = DissimilarityTracker._tick, [False]

    def ticking(self: DissimilarityTracker, trainer: Any, module: Any) -> None:
        in_tick[0] = trainer.global_step == step
        tick(self, trainer, module)
        in_tick[0] = False

    DissimilarityTracker._tick = ticking  # pyright: ignore[reportAttributeAccessIssue]
    owner, name, error = {
        "a measure": (CKA, "from_moments", TypeError("a fault in a measure")),
        "the table": (Curves, "append", OSError(errno.ENOSPC, "No space left on device")),
        "the capture": (probe_reader, "read_chunks", MemoryError("no memory for the capture")),
    }[kind]
    original = getattr(owner, name)

    def failing(*args: Any, **kwargs: Any) -> Any:
        if in_tick[0]:
            raise error
        return original(*args, **kwargs)

    setattr(owner, name, failing)


def _metrics(run: Path, losses: bool) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    prefix = ("step", "train/", "val/", "ood") if losses else ("",)
    return [
        {key: value for key, value in row.items() if key.startswith(prefix) and not key.endswith(("seconds", "share"))}
        for row in rows
    ]


def _penalties(run: Path) -> list[dict[str, Any]]:
    rows = Journal(run / "penalties.jsonl").read()
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
