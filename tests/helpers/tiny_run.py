"""A training of seconds through train.py's own function, in a process of its own that may be killed at any moment."""

import importlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

import train
from callbacks import signals
from callbacks.interrupted import Interrupted
from callbacks.validation import FinalValidation
from launch.cli.compose import compose
from tests.helpers.tiny_text import tiny_texts, write_jsonl

# What a training imports when it comes to it: imported here, it is there in every forked process.
for name in (
    *(f"callbacks.{part}" for part in ("checkpoints", "console", "interrupts", "loggers", "stitching", "time_limit")),
    *("callbacks.tracker", "data.module", "data.sources.files", "data.text_classification", "dissimilarity.functional"),
    *("dissimilarity.figures.penalties", "launch.cli.quiet", "launch.run.record", "launch.run.references"),
    *("launch.run.summary", "models.continuing", "models.initial_model", "models.language_model", "models.references"),
    *("models.text_classifier", "pandas"),  # pandas by pyarrow
):
    importlib.import_module(name)

FORK = multiprocessing.get_context("fork")


def tiny_overrides(folder: Path, **changes: Any) -> list[str]:
    """Return overrides of a run of 11 steps on text in `folder`; `changes` are further ones, with __ for the dot."""
    text = folder / "text.jsonl"
    if not text.exists():
        write_jsonl(text, tiny_texts(120))
    settings = {
        "data": "files",
        "data.source.paths": f"[{text}]",
        "data.cache_dir": folder / "cache",
        "data.tokenizer.vocab_size": 300,
        "data.n_ctx": 16,
        "data.batch_size": 2,
        "data.val_sequences": 4,
        "runs_dir": folder / "runs",
        "name": "tiny",
        "width": 16,
        "depth": 1,
        "model.d_head": 8,
        "schedule.every": 4,
        "schedule.heatmap_every": 8,
        "probe.sequences": 16,
        "probe.length": 16,
        "trainer.max_steps": 11,
        "trainer.val_check_interval": 3,
        "trainer.log_every_n_steps": 1,
        "trainer.accelerator": "cpu",
        "trainer.precision": "32-true",
        "logger": "none",
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return [f"{key}={value}" for key, value in settings.items()]


def tiny(folder: Path, **changes: Any) -> DictConfig:
    """Return the config of such a run."""
    cfg = deepcopy(_composed(*(text.replace(str(folder), PLACE) for text in tiny_overrides(folder, **changes))))
    _put(cfg, str(folder))
    return cfg


PLACE = "the_folder_of_this_test"
"""Stands for the folder in configs that tests share: Hydra takes a tenth of a second to compose one."""


@cache
def _composed(*overrides: str) -> DictConfig:
    return compose(list(overrides))


def _put(node: Any, folder: str) -> None:
    """Put a folder wherever a config says PLACE."""
    keys: Any = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        if isinstance(value := node[key], (DictConfig, ListConfig)):
            _put(value, folder)
        elif isinstance(value, str) and PLACE in value:
            node[key] = value.replace(PLACE, folder)


def kill_at(hook: str, step: int, signum: int = signal.SIGKILL) -> None:
    """Make this process end by `signum` when a training reaches `hook` after `step` updates."""
    before = getattr(FinalValidation, hook)

    def hooked(self: Any, trainer: Any, *args: Any, **kwargs: Any) -> None:
        before(self, trainer, *args, **kwargs)
        if trainer.global_step == step:
            os.kill(os.getpid(), signum)

    setattr(FinalValidation, hook, hooked)


def kill_at_file(name: str, count: int) -> None:
    """Kill this process by SIGKILL just before it writes the file `name` for the `count`-th time."""
    replace, seen = os.replace, [0]

    def counted(source: Any, target: Any) -> None:
        seen[0] += Path(target).name == name
        if seen[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = counted


def kill_after(seconds: float) -> None:
    """Make this process end by SIGKILL after some time, whatever it is doing then."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def in_process(cfg: DictConfig, before: Callable[[], None] = lambda: None) -> int:
    """Train in a forked process after `before()`; return its exit code, -9 if it was killed, 1 for an exception."""
    warm_up()
    process = FORK.Process(target=_train, args=(cfg, before))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the training did not end within two minutes"
    return process.exitcode


@cache
def warm_up() -> None:
    """Train once in this process: what is prepared at the first use is there in every fork, which takes half the time.

    The run-time checks of shapes are the largest part.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
        torch.random.fork_rng(),
    ):
        stitching = {"callbacks.stitching.every": 4, "callbacks.stitching.sequences": 16}
        train.train(tiny(Path(folder), callbacks="stitching", **stitching))


def forked_command(
    program: ModuleType, arguments: Sequence[str], folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `python PROGRAM.py ARGUMENTS` in `folder`, in a fork that need not import anything."""
    with tempfile.TemporaryDirectory() as place:
        streams = [Path(place) / name for name in ("out", "err")]
        process = FORK.Process(target=_streamed, args=(program, arguments, folder, environment, streams))
        process.start()
        process.join(300)
        assert process.exitcode is not None, "the command did not end within five minutes"
        return subprocess.CompletedProcess(arguments, process.exitcode, *(stream.read_text() for stream in streams))


def forked_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a study's `python train.py -m ...` run in forks of this process, which need not import anything."""
    monkeypatch.setattr("studies.common.trainings.exit_code", _forked)


def _forked(command: list[str]) -> int | None:
    warm_up()
    process = FORK.Process(target=_command, args=(train, command[2:]))
    process.start()
    process.join(300)
    return process.exitcode


def _command(program: ModuleType, arguments: Sequence[str]) -> None:
    _prepare()
    sys.argv = [f"{program.__name__}.py", *arguments]
    sys.exit(program.run(program.main, program.__name__))


def _streamed(
    program: ModuleType, arguments: Sequence[str], folder: Path, environment: dict[str, str], streams: list[Path]
) -> None:
    for descriptor, stream in enumerate(streams, 1):
        file = os.open(stream, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115 - stay open
    os.environ.update(environment)
    os.chdir(folder)
    _command(program, arguments)


def _prepare() -> None:
    torch.set_num_threads(1)
    signals.take_over()


def _train(cfg: DictConfig, before: Callable[[], None]) -> None:
    _prepare()
    before()
    try:
        train.train(cfg)
    except Interrupted as error:
        sys.exit(128 + error.signum)
