"""The faster choices on this machine: bf16 or float32, compiled or not."""

import ctypes
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.pack import cache_lock
from launch.run.folder import read_json, write_json
from launch.run.provenance import cpu_name

# bf16 must save a tenth of a step. A smaller difference is decided by the noise of the timing, and two runs of a sweep
# that are to be compared would train in different precisions.
BF16_PAYS = 0.9
# torch.compile in bf16 on two AMX cores, torch 2.13, SoLU of depth 2, batches of 16 x 128 tokens: a step took 9% less
# time at width 128 and 5% at width 512, and `train.py` 40 s longer until its end. The compiled code stays on disk for
# the runs that follow (3 s), but their choice must not depend on that: runs to be compared compute alike. In float32 on
# two AVX2 cores, a step took 0.98 and 1.01 times as long as an eager one.
CPU_COMPILE_SECONDS = 40.0
CPU_BF16_SAVED = 0.07
# An estimate, not a measurement: about a minute to compile, a third of a step saved, at half a second per step.
CUDA_STEPS = 300
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

Batch = Tensor | tuple[Tensor, Tensor]
"""Tokens, each of them the target of those before it, or tokens and one label per row."""


@dataclass(frozen=True)
class Precision:
    """A precision to train in.

    Attributes:
        chosen: Its name in Lightning.
        why: The reason for it.
        step_seconds: Duration of one step, if it was measured.
    """

    chosen: str
    why: str
    step_seconds: float | None = None


def training_device(accelerator: str) -> torch.device:
    """Return the device on which Lightning trains for `trainer.accelerator`."""
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("gpu", "mps", "auto") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def check_device(key: str, asked: str) -> None:
    """Raise ValueError if this machine lacks the device that `key` asks for."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked in ("auto", "cpu") or available.get(asked) or (asked == "gpu" and any(available.values())):
        return
    names = ", ".join([*(name for name, is_available in available.items() if is_available), "cpu"])
    raise ValueError(
        f"{key}={asked}: torch {torch.__version__} finds no such device on this machine, only {names}; "
        f"type {key}=cpu, or {key}=auto for the best available one"
    )


def check_devices(accelerator: str, asked: int | str | Sequence[int]) -> None:
    """Raise ValueError if `trainer.devices` asks for more devices than there are; a processor takes any number."""
    if accelerator == "cpu" or asked in ("auto", -1):
        return
    device = training_device(accelerator)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (asked if isinstance(asked, int) else max(map(int, asked)) + 1) > count:
        available = f"{count} x {torch.cuda.get_device_name()}" if device.type == "cuda" else device_name(device)
        on_processor = "" if device.type == "cuda" else "; trainer.accelerator=cpu runs any number on the processor"
        raise ValueError(
            f"trainer.devices={asked}: this machine has {available}; type trainer.devices=auto{on_processor}"
        )


def device_name(device: torch.device) -> str:
    """Return the name of a device for the terminal."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return "Apple GPU" if device.type == "mps" else f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def choose_precision(asked: str, net: nn.Module, batch: Batch, device: torch.device) -> Precision:
    """Return the precision to train in.

    `auto` means bf16-mixed on a CUDA device that supports it, and on a processor where it makes a step of this net at
    least a tenth faster; otherwise 32-true. A matrix product shows first whether the processor emulates bf16, which can
    be 200 times slower.

    Args:
        asked: The value of `trainer.precision`.
        net: The net to train; its weights and gradients stay as they are.
        batch: A batch as in training: tokens (batch, n_ctx + 1), or tokens (batch, n_ctx) and labels (batch,).
        device: The device of the training.
    """
    if asked != "auto":
        return Precision(asked, "asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16-mixed", "the GPU supports it")
        return Precision("32-true", "the GPU does not support bf16")
    if device.type != "cpu":
        return Precision("32-true", "bf16 is not reliable on this device")
    slower = product_seconds(torch.bfloat16) / product_seconds(torch.float32)
    if slower > 1:
        return Precision("32-true", f"matrix products in bf16 take {slower:,.1f} times as long on this machine")
    full, half = step_seconds(net, batch, None), step_seconds(net, batch, torch.bfloat16)
    if half < BF16_PAYS * full:
        return Precision("bf16-mixed", f"one step {half:.3f} s, in float32 {full:.3f} s", half)
    return Precision("32-true", f"one step {full:.3f} s, in bf16 {half:.3f} s", full)


def kept_precision(folder: Path, shape: str, choose: Callable[[], Precision]) -> Precision:
    """Return the first choice on this machine for nets of this shape, which is kept in `folder`/precision.json.

    Otherwise noise would decide between two nearly equal precisions, and runs that are to be compared (families, seeds,
    the jobs of a sweep) would train in different ones. Jobs that start together wait for the choice of the first.

    Args:
        folder: The folder; made if it does not exist.
        shape: What the duration of a step depends on, apart from the family and its activation.
        choose: Measures and chooses; called at most once.
    """
    path = folder / "precision.json"
    folder.mkdir(parents=True, exist_ok=True)
    key = f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}: {shape}"
    with cache_lock(folder / ".precision.lock"):
        choices: dict[str, Any] = {}
        with suppress(ValueError):  # of a damaged file, which is replaced
            choices = read_json(path)
        if key not in choices:
            precision = choose()
            write_json(path, {**choices, key: asdict(precision)})
            return precision
    return replace(Precision(**choices[key]), why=f"{choices[key]['why']}; measured before and kept in {path}")


def choose_compile(asked: bool | str, steps: int, device: torch.device, precision: Precision) -> tuple[bool, str]:
    """Return whether to compile the net, and why.

    `auto` means: on CUDA, from `CUDA_STEPS` steps on; on a processor in bf16, if the steps save more time than
    compiling costs; in float32 never, because it gains nothing there (see the numbers at the top of this file).

    Args:
        asked: The value of `compile`: True, False or "auto".
        steps: Number of optimizer steps of the training.
        device: The device of the training.
        precision: The result of `choose_precision`.

    Raises:
        ValueError: If `asked` is True and there is no compiler.
    """
    if device.type == "cpu" and asked is True and compiler() is None:
        raise ValueError(
            "compile=true: torch.compile needs a C++ compiler on the processor, and found no g++ or clang++"
        )
    if asked != "auto":
        return bool(asked), "asked for"
    if device.type == "cuda":
        return steps >= CUDA_STEPS, f"{steps} steps; compiling pays off from about {CUDA_STEPS}"
    if device.type != "cpu":
        return False, "not reliable on this device"
    if not precision.chosen.startswith("bf16") or precision.step_seconds is None:
        return False, "no gain on a CPU in float32"
    if compiler() is None:
        return False, "no C++ compiler"
    saved = steps * precision.step_seconds * CPU_BF16_SAVED
    return saved > CPU_COMPILE_SECONDS, f"saves about {saved:.0f} s and costs about {CPU_COMPILE_SECONDS:.0f} s"


def compiler() -> str | None:
    """Return the path of the C++ compiler that torch.compile uses on the processor; None if there is none."""
    return next((path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))), None)


def product_seconds(dtype: torch.dtype, size: int = 256) -> float:
    """Return the best time of three square matrix products, on one thread because other work disturbs that least."""
    a, b = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return min(times[1:])


def step_seconds(net: nn.Module, batch: Batch, dtype: torch.dtype | None) -> float:
    """Return the better time of two forward and backward passes on the processor, with autocast to `dtype` if given."""
    times: list[float] = []
    with torch.random.fork_rng(devices=[]):  # timing a step must not change what dropout draws
        _pass(net, batch[:1] if isinstance(batch, Tensor) else (batch[0][:1], batch[1][:1]), dtype)  # first calls
        for _ in range(2):
            start = time.perf_counter()
            _pass(net, batch, dtype)
            times.append(time.perf_counter() - start)
    return min(times)


def _pass(net: Any, batch: Batch, dtype: torch.dtype | None) -> None:
    tokens, targets = (batch[:, :-1], batch[:, 1:]) if isinstance(batch, Tensor) else batch
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        logits = net(tokens)
    loss = nn.functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten())
    loss.backward()
    net.zero_grad(set_to_none=True)


def keep_freed_memory() -> None:
    """Make glibc serve large tensors from memory that the process holds; saves about 7% of a training step on a CPU.

    By default glibc maps each large block again, and the kernel fills it with zeros page by page. Other C libraries
    stay as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
