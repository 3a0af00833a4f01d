"""The folder of a run: whose it is, whether it is new, goes on or is done, and files that are whole at any moment."""

import json
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf

from dissimilarity.loading import untrusted
from launch.run.config_file import read_yaml
from launch.run.contents import LOGGERS, OVERWRITING, empty, is_run_config, listed, never_reached_step_0, strangers

State = Literal["new", "continued", "finished"]

# Keys that may change between two starts of the same run, and why: none of them changes what is computed.
EXEMPT = {
    "overwrite": "an order, not a property of the run",
    "logger": "loggers are views of the tables",
    "runs_dir": "where the folder is, not what is in it",
    "data.cache_dir": "the packed data is the same wherever it is kept; its fingerprint is compared",
    "checkpoints": "which files stay, not what is in them",
    "callbacks.checkpoints.keep": "as checkpoints",
    "callbacks.console": "how progress is shown",
    "trainer.profiler": "it watches",
    "trainer.max_time": "how long one start may take; the next one goes on",
    "trainer.accelerator": "a run may move to another machine: the same batches, updates equal up to rounding",
    "trainer.devices": "batch_size is over all processes, so their number changes only rounding",
    "trainer.num_nodes": "as trainer.devices",
    "trainer.strategy": "as trainer.devices",
}

OVER = ("finished", "diverged", "stopped early")
"""Statuses of a run with nothing left to do; one that was interrupted, stopped by the clock or failed goes on."""
ABSENT = "(not there)"


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one step: a reader finds the old text or the new, a kill leaves one of them whole."""
    from dissimilarity.tables.files import replacing

    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaces a JSON file in one step; numbers that are not finite, for which JSON has no form, are null in it."""
    from dissimilarity.tables.strict_json import with_nulls

    write_text(path, json.dumps(with_nulls(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is none.

    Raises:
        ValueError: it is damaged, too large or too deep; names the file.
    """
    return untrusted.read_json(path) if path.exists() else {}


def open_run(folder: Path, cfg: DictConfig) -> State:
    """Settles what a start in `folder` means, and writes config.yaml into a new one. Call it with the folder locked.

    Returns:
        "new" (also where a run, whatever its config, never reached step 0: nothing is lost), "continued" (the same
        config, with steps left) or "finished" (the same config, nothing left to do).

    Raises:
        ValueError: the folder is another run's, or no run's.
    """
    config, saved = resolved(cfg), folder / "config.yaml"
    if (folder / OVERWRITING).exists() or (cfg.overwrite and saved.exists()):
        empty(folder)
    elif never_reached_step_0(folder):
        empty(folder, keep=LOGGERS)
    if not saved.exists():
        others = [name for name in strangers(folder, {"": (), **LOGGERS}) if not name.startswith(".")]
        if others:
            raise ValueError(
                f"{folder} is not the folder of a run (no config.yaml; it holds {listed(others)}): "
                "choose another name with name=..."
            )
        write_text(saved, OmegaConf.to_yaml(OmegaConf.create(config)))
        return "new"
    if not is_run_config(saved):
        raise ValueError(
            f"{folder} is not the folder of a run (its config.yaml is something else's): "
            "choose another name with name=..."
        )
    changes = differing(read_yaml(saved), config)
    if changes:
        lines = [f"  {key}: {_short(old)} -> {_short(new)}" for key, old, new in changes]
        raise ValueError(
            f"{folder} holds a run with another config:\n" + "\n".join(lines) + "\n"
            "Give this one another name with name=..., or throw the old one away with overwrite=true"
        )
    return "finished" if is_over(read_json(folder / "summary.json")) else "continued"


def is_over(summary: dict[str, Any]) -> bool:
    """Whether the run of a summary.json has nothing left to do: the same command leaves it alone."""
    return summary.get("status") in OVER


def resolved(cfg: DictConfig | ListConfig) -> dict[str, Any]:
    """The config as plain values, interpolations filled in."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def without_missing(node: DictConfig) -> dict[str, Any]:
    """Return a part of the config as plain values without those that the data fills in later (???)."""
    return {key: value for key, value in resolved(node).items() if value != "???"}


def differing(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """The keys, outside of `EXEMPT`, whose values differ: (dotted key, old, new), `ABSENT` where there is none."""
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
