"""The folder of a run: which run it belongs to, whether that is new, continued or finished, and atomic files."""

import json
import re
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf

from dissimilarity.loading import untrusted
from launch.run.config_file import read_yaml
from launch.run.contents import LOGGERS, OVERWRITING, RUN_KEYS, empty, foreign_paths, listed, never_reached_step_0

State = Literal["new", "continued", "finished"]

# Keys that may change between two starts of a run, with the reason why that changes nothing that is computed.
EXEMPT = {
    "overwrite": "a command, not a property of the run",
    "optimized_metric": "what a sweep reads from the finished run",
    "logger": "loggers show what the tables hold",
    "runs_dir": "the place of the folder, not its content",
    "data.cache_dir": "packed data is the same everywhere, and its fingerprint is compared",
    "checkpoints": "which files stay, not their content",
    "figures": "figures show what the tables hold",
    "callbacks.tracker.figures": "see figures",
    "callbacks.stitching.formats": "see figures",
    "callbacks.checkpoints.keep": "see checkpoints",
    "callbacks.console": "how progress is displayed",
    "trainer.profiler": "it only observes",
    "trainer.max_time": "how long one start may take; the next one continues",
    "trainer.accelerator": "a run may move to another machine: equal batches, and updates equal up to rounding",
    "trainer.devices": "batch_size counts all processes together, so their number changes only rounding",
    "trainer.num_nodes": "see trainer.devices",
    "trainer.strategy": "see trainer.devices",
}

OVER = ("finished", "diverged", "stopped early")
"""Statuses of a run with nothing left to do; one that was interrupted, ran out of time or failed continues."""
ABSENT = "(absent)"
COPY = re.compile(r"\$\{[\w.@/]+\}")
"""A value that is that of another key."""


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: readers find the old text or the new one, and a kill leaves one of them intact."""
    from dissimilarity.tables.files import replacing

    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file in one step; numbers that are not finite, which JSON cannot represent, become null."""
    from dissimilarity.tables.strict_json import with_nulls

    write_text(path, json.dumps(with_nulls(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if there is no file.

    Raises:
        ValueError: If it is damaged, too large or nested too deeply; names the file.
    """
    return untrusted.read_json(path) if path.exists() else {}


def open_run(folder: Path, cfg: DictConfig) -> State:
    """Decide what a start in `folder` means, and write config.yaml into a new one. Call it with the folder locked.

    Returns:
        "new" (also over a run with any config that never reached step 0, where nothing is lost), "continued" (the same
        config, with steps left) or "finished" (the same config, nothing left to do).

    Raises:
        ValueError: If the folder belongs to another run, or is not the folder of a run.
    """
    config, saved = resolved(cfg), folder / "config.yaml"
    if (folder / OVERWRITING).exists() or (cfg.overwrite and saved.exists()):
        empty(folder)
    elif never_reached_step_0(folder):
        empty(folder, keep=LOGGERS)
    if not saved.exists():
        others = [name for name in foreign_paths(folder, {"": (), **LOGGERS}) if not name.startswith(".")]
        if others:
            raise ValueError(
                f"{folder} is not the folder of a run (no config.yaml; it holds {listed(others)}): "
                "choose another name with name=..."
            )
        write_text(saved, OmegaConf.to_yaml(OmegaConf.create(config)))
        return "new"
    try:
        earlier = read_yaml(saved)
    except ValueError as error:
        raise ValueError(f"{folder} is not the folder of a run ({error}): choose another name with name=...") from error
    if not RUN_KEYS.issubset(earlier):
        raise ValueError(
            f"{folder} is not the folder of a run (its config.yaml is not that of a run): "
            "choose another name with name=..."
        )
    changes = differing(earlier, config)
    if changes:
        lines = [f"  {key}: {_short(old)} -> {_short(new)}" for key, old, new in changes]
        raise ValueError(
            f"{folder} holds a run with another config:\n" + "\n".join(lines) + "\n"
            "Give this run another name with name=..., or delete the old one with overwrite=true"
        )
    return "finished" if is_over(read_json(folder / "summary.json")) else "continued"


def is_over(summary: dict[str, Any]) -> bool:
    """Return whether the run of a summary.json has nothing left to do, so that the same command leaves it alone."""
    return summary.get("status") in OVER


def resolved(cfg: DictConfig | ListConfig) -> dict[str, Any]:
    """Return the config as plain values with resolved interpolations."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def chosen(cfg: DictConfig) -> dict[str, Any]:
    """Return the config as plain values, each once: no copies of other keys, nothing that the data fills in later.

    Examples:
        >>> model = {"width": "${width}", "d_vocab": "???", "path": "a/${width}"}
        >>> chosen(OmegaConf.create({"width": 64, "model": model, "sites": ["embed"]}))
        {'width': 64, 'model': {'path': 'a/64'}, 'sites': ['embed']}
    """
    values: dict[str, Any] = {}
    for key in cfg:
        is_copy = COPY.fullmatch(str(cfg._get_node(key)._value()))  # pyright: ignore
        if not is_copy and not OmegaConf.is_missing(cfg, key):
            value = cfg[key]
            values[str(key)] = chosen(value) if isinstance(value, DictConfig) else _plain(value)
    return values


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if isinstance(value, ListConfig) else value


def without_missing(node: DictConfig) -> dict[str, Any]:
    """Return a part of the config as plain values without those that the data fills in later (???)."""
    return {key: value for key, value in resolved(node).items() if value != "???"}


def differing(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Return the keys outside of `EXEMPT` whose values differ, as (dotted key, old, new), `ABSENT` for no value.

    Examples:
        >>> differing({"width": 64, "runs_dir": "a"}, {"width": 128, "runs_dir": "b"})
        [('width', 64, 128)]
    """
    changes = []
    for key in sorted(old.keys() | new.keys()):
        name = f"{prefix}{key}"
        before, after = old.get(key, ABSENT), new.get(key, ABSENT)
        if name in EXEMPT or before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            changes += differing(before, after, f"{name}.")
        else:
            changes.append((name, before, after))
    return changes


def _short(value: Any) -> str:
    text = value if value == ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
