"""The files that a run leaves in its folder, which are the only ones that are ever deleted from it."""

import shutil
from collections.abc import Container, Mapping
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

from launch.run.config_file import read_yaml

OVERWRITING = ".overwriting"
"""Marks a folder that is being emptied; after a kill it remains, and the next start continues to empty."""
OWN = (".lock", OVERWRITING)
LOGGERS = {
    "wandb": ("debug*.log", "latest-run", "run-*", "offline-run-*"),
    "tensorboard": ("events.out.tfevents.*", "hparams.yaml"),
}

Contents = Mapping[str, tuple[str, ...]]
"""Patterns of file names by their folder; the run folder itself is ""."""

BEFORE_STEP_0: Contents = {
    "": ("config.yaml", "provenance.json", "tokenizer.json"),
    "references": tuple(f"{name}.safetensors" for name in ("*-[0-9][0-9][0-9]*", "training", "positions", "weights-*")),
    **LOGGERS,
}
TABLES = (
    "summary.json",
    "report.html",
    "metrics.csv",
    "metrics.jsonl",
    "curves.jsonl",
    "curves.parquet",
    "intrinsic.jsonl",
    "alerts.jsonl",
    "groups.parquet",
    "penalties.jsonl",
    "schedule.json",
    "stitching_schedule.json",
)
FIGURES = tuple(map("".join, product(("curves*", "heatmap_*", "groups", "intrinsic", "penalties"), (".png", ".pdf"))))
RUN: Contents = {
    **BEFORE_STEP_0,
    "": BEFORE_STEP_0[""] + TABLES,
    "checkpoints": ("last.ckpt", "second_last.ckpt", "step_[0-9]*.ckpt", "step_[0-9]*.pinned"),
    "figures": FIGURES,
}
RUN_KEYS = {"model", "data", "optim", "trainer", "schedule", "probe", "runs_dir"}
"""Root keys of every run's config.yaml; no study has all of them, and hardly any other program."""


def foreign_paths(folder: Path, contents: Contents) -> list[str]:
    """Return the paths in a run folder that are not among `contents`: files, folders, and links of any target."""
    names = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and path.name in contents:
            inside = contents[path.name]
            names += [f"{path.name}/{p.name}" for p in sorted(path.iterdir()) if not _is_ours(p, path.name, inside)]
        elif not _is_ours(path, "", contents[""]) and not (path.name in OWN and _is_plain(path)):
            names.append(f"{path.name}/" if path.is_dir() else path.name)
    return names


def run_config(path: Path, keys: set[str] = RUN_KEYS) -> dict[str, Any] | None:
    """Return the content of the config.yaml of a run or, with other `keys`, of a study; None for any other file."""
    try:
        config = read_yaml(path)
    except (OSError, ValueError):
        return None
    return config if keys <= config.keys() else None


def never_reached_step_0(folder: Path) -> bool:
    """Return whether a folder holds nothing but what a run leaves that ended before its first step."""
    return (
        not folder.is_symlink()
        and bool(run_config(folder / "config.yaml"))
        and not foreign_paths(folder, BEFORE_STEP_0)
    )


def empty(folder: Path, keep: Container[str] = ()) -> None:
    """Delete everything from the folder of a run except the lock and the names in `keep`, or nothing at all.

    Raises:
        ValueError: If it is not the folder of a run, or holds files that no run leaves.
    """
    if folder.is_symlink():
        raise ValueError(
            f"{folder} is a link to {folder.resolve()}, and a folder is not emptied through a link: remove the link, "
            "name the folder itself, or choose another name with name=..."
        )
    interrupted = (folder / OVERWRITING).exists()
    if not interrupted and not run_config(folder / "config.yaml"):
        raise ValueError(
            f"{folder} is not the folder of a run (its config.yaml is not that of a run), so it is not emptied: "
            "choose another name with name=..."
        )
    others = foreign_paths(folder, RUN)
    if others:
        raise ValueError(
            f"{folder} is not emptied, because it holds files that no run leaves there: {listed(others)}; "
            "move them away, or choose another name with name=..."
        )
    (folder / OVERWRITING).touch()
    for path in folder.iterdir():
        if path.name not in OWN and path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / OVERWRITING).unlink()


def listed(names: list[str]) -> str:
    """Return the first five names, and how many more there are.

    Examples:
        >>> listed(["a", "b"])
        'a, b'
    """
    remainder = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + remainder


def _is_ours(path: Path, place: str, patterns: tuple[str, ...]) -> bool:
    name = path.name
    if place in LOGGERS:  # these hold folders, and W&B a link to the newest
        return any(fnmatchcase(name, pattern) for pattern in patterns)
    if not _is_plain(path):
        return False
    if name.startswith("."):  # a file that a killed process was writing
        patterns = tuple(f".{pattern}.*.[0-9]*.*.part" for pattern in patterns)
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
