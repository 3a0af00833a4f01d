"""What this machine does faster: bf16 or float32, compiled or not."""

import ctypes
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from launch.run.folder import read_json, write_json
from launch.run.provenance import cpu_name

# bf16 is taken where it saves a tenth of a step. Closer than that the timing decides by chance, and two runs of a sweep
# that are to be compared would train in different precisions.
BF16_PAYS = 0.9
# torch.compile on two AVX2 cores, torch 2.13, SoLU of depth 2, batches of 8 x 128 tokens: 50 s to compile at width 128
# and 31 s at width 512; a float32 step took 0.98 and 1.01 times as long as an eager one. In bf16 on AMX processors
# the compiled net did 13,100 tokens/s where the eager one did 11,500: 12 % of a step saved.
CPU_COMPILE_SECONDS = 50.0
CPU_BF16_SAVED = 0.12
# An estimate, not a measurement: about a minute to compile, a third of a step saved, at half a second a step.
CUDA_STEPS = 300
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

Batch = Tensor | tuple[Tensor, Tensor]
"""Tokens of which each is the target of those before it, or tokens and a label for each row."""


@dataclass(frozen=True)
class Precision:
    """The Lightning precision to train in, why, and how long one step takes in it, if that was measured."""

    chosen: str
    why: str
    step_seconds: float | None = None


def device_of(accelerator: str) -> torch.device:
    """The device on which Lightning will train for `trainer.accelerator`."""
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("gpu", "mps", "auto") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def check_device(key: str, asked: str) -> None:
    """Raises ValueError where the device that `key` asks for is not on this machine."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked in ("auto", "cpu") or there.get(asked) or (asked == "gpu" and any(there.values())):
        return
    rest = ", ".join([*(name for name, is_there in there.items() if is_there), "cpu"])
    raise ValueError(
        f"{key}={asked}: torch {torch.__version__} finds no such device on this machine, only {rest}; "
        f"type {key}=cpu, or {key}=auto for the best there is"
    )


def check_devices(accelerator: str, asked: int | str | Sequence[int]) -> None:
    """Raises ValueError where `trainer.devices` asks for more than there are; a processor takes any number."""
    if accelerator == "cpu" or asked in ("auto", -1):
        return
    device = device_of(accelerator)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (asked if isinstance(asked, int) else max(map(int, asked)) + 1) > count:
        found = f"{count} x {torch.cuda.get_device_name()}" if device.type == "cuda" else device_name(device)
        on_processor = "" if device.type == "cuda" else "; trainer.accelerator=cpu runs any number on the processor"
        raise ValueError(f"trainer.devices={asked}: there is {found}; type trainer.devices=auto{on_processor}")


def device_name(device: torch.device) -> str:
    """What to call it on the terminal."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return "Apple GPU" if device.type == "mps" else f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def choose_precision(asked: str, net: nn.Module, batch: Batch, device: torch.device) -> Precision:
    """The precision to train in.

    Asked for `auto`: bf16-mixed on a CUDA device that has it; on a processor where one step of this net takes less time
    by a tenth, if a product of matrices shows that bf16 is not emulated (that can be 200 times slower); else 32-true.

    Args:
        asked: `trainer.precision`.
        net: the net to train; its weights and gradients are left as they were.
        batch: one as the training has them: tokens (batch, n_ctx + 1), or tokens (batch, n_ctx) and labels (batch,).
        device: where the training will be.
    """
    if asked != "auto":
        return Precision(asked, "asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16-mixed", "the GPU has it")
        return Precision("32-true", "the GPU has no bf16")
    if device.type != "cpu":
        return Precision("32-true", "bf16 is not dependable on this device")
    slower = product_seconds(torch.bfloat16) / product_seconds(torch.float32)
    if slower > 1:
        return Precision("32-true", f"products of matrices in bf16 take {slower:,.1f} times as long here")
    full, half = step_seconds(net, batch, None), step_seconds(net, batch, torch.bfloat16)
    if half < BF16_PAYS * full:
        return Precision("bf16-mixed", f"one step {half:.3f} s, in float32 {full:.3f} s", half)
    return Precision("32-true", f"one step {full:.3f} s, in bf16 {half:.3f} s", full)


def kept_precision(folder: Path, shape: str, choose: Callable[[], Precision]) -> Precision:
    """What `choose` chose the first time on this machine for nets of this shape, kept in `folder`/precision.json.

    Two near equals would otherwise be told apart by chance, and runs that are to be compared (families, seeds, the jobs
    of a sweep) would train in different precisions. Jobs that start together wait for the first one's choice.

    Args:
        folder: made if it is not there.
        shape: what the time of a step depends on, the family and its activation left out.
        choose: measures; called at most once.
    """
    path = folder / "precision.json"
    folder.mkdir(parents=True, exist_ok=True)
    key = f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}: {shape}"
    with FileLock(folder / ".precision.lock"):
        known = read_json(path)
        if key not in known:
            chosen = choose()
            write_json(path, {**known, key: asdict(chosen)})
            return chosen
    return replace(Precision(**known[key]), why=f"{known[key]['why']}; measured before, kept in {path}")


def choose_compile(asked: bool | str, steps: int, device: torch.device, precision: Precision) -> tuple[bool, str]:
    """Whether to compile the net, and why.

    Asked for `auto`: on CUDA from `CUDA_STEPS` steps on; on a processor in bf16, where what the steps save is more
    than compiling costs; in float32 never, since there it gained nothing (the figures are at the head of this file).

    Args:
        asked: `compile`: True, False or "auto".
        steps: updates of the whole training.
        device: where the training will be.
        precision: what `choose_precision` chose.

    Raises:
        ValueError: True where there is nothing to compile with.
    """
    if device.type == "cpu" and asked is True and compiler() is None:
        raise ValueError("compile=true: torch.compile needs a C++ compiler on the processor, found no g++ or clang++")
    if asked != "auto":
        return bool(asked), "asked for"
    if device.type == "cuda":
        return steps >= CUDA_STEPS, f"{steps} steps; it pays from about {CUDA_STEPS}"
    if device.type != "cpu":
        return False, "not dependable on this device"
    if not precision.chosen.startswith("bf16") or precision.step_seconds is None:
        return False, "gains nothing on a processor in float32"
    if compiler() is None:
        return False, "no C++ compiler"
    saved = steps * precision.step_seconds * CPU_BF16_SAVED
    return saved > CPU_COMPILE_SECONDS, f"saves about {saved:.0f} s and costs about {CPU_COMPILE_SECONDS:.0f} s"


def compiler() -> str | None:
    """Path of the C++ compiler that torch.compile would use on the processor; None if there is none."""
    return next((path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))), None)


def product_seconds(dtype: torch.dtype, size: int = 256) -> float:
    """The best of three products of square matrices on one thread, which other work on the machine disturbs least."""
    a, b = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - begun)
    torch.set_num_threads(threads)
    return min(times[1:])


def step_seconds(net: nn.Module, batch: Batch, dtype: torch.dtype | None) -> float:
    """The better of two forward and backward passes on the processor, under autocast to `dtype` (None: as it is)."""
    times: list[float] = []
    with torch.random.fork_rng(devices=[]):  # what dropout draws is not to depend on whether a step was timed
        for _ in range(3):
            begun = time.perf_counter()
            _pass(net, batch, dtype)
            times.append(time.perf_counter() - begun)
    return min(times[1:])


def _pass(net: Any, batch: Batch, dtype: torch.dtype | None) -> None:
    tokens, targets = (batch[:, :-1], batch[:, 1:]) if isinstance(batch, Tensor) else batch
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        logits = net(tokens)
    loss = nn.functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten())
    loss.backward()
    net.zero_grad(set_to_none=True)


def keep_freed_memory() -> None:
    """Make glibc serve large tensors from memory that the process holds; saves about 7 % of a training step on a CPU.

    By default glibc maps each large block anew, and the kernel fills it with zeros page by page. Other C libraries stay
    as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
