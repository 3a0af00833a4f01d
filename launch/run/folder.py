"""The folder of a run: whose it is, whether it is new, goes on or is done, and files that are whole at any moment."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf

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
    "trainer.accelerator": "a run may move to another machine: the same batches, updates equal up to rounding",
    "trainer.devices": "batch_size is over all processes, so their number changes only rounding",
    "trainer.num_nodes": "as trainer.devices",
    "trainer.strategy": "as trainer.devices",
}

# Keys that came after runs were made without them, and what those runs did: they go on as they were.
LATER = {
    "control.skip_first": 0,
    "control.drop_top_norm": 0,
    "control.every": 1,
    "control.normalize": "none",
    "callbacks.tracker.control.skip_first": 0,
    "callbacks.tracker.control.drop_top_norm": 0,
    "callbacks.tracker.control.every": 1,
    "callbacks.tracker.control.normalize": "none",
    "align.unit": "word",
    "align.take": "last",
    "task._target_": "models.language_model.LanguageModel.on",
    "task._partial_": True,
    "start": None,
    "groups": None,
    "callbacks.tracker.reference_groups": None,
    "include_padding": False,
}

ABSENT = "(not there)"
_OVERWRITING = ".overwriting"


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one step: a reader finds the old text or the new, a kill leaves one of them whole."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaces a JSON file in one step."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def open_run(folder: Path, cfg: DictConfig) -> State:
    """Settles what a start in `folder` means, and writes config.yaml into a new one. Call it with the folder locked.

    Returns:
        "new" (also where a run of another config never reached step 0), "continued" (the same config, not finished) or
        "finished" (the same config, nothing left to do).

    Raises:
        ValueError: the folder is another run's, or no run's.
    """
    config = resolved(cfg)
    if cfg.overwrite or (folder / _OVERWRITING).exists():
        _empty(folder)
    saved = folder / "config.yaml"
    if not saved.exists():
        strangers = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        if strangers:
            raise ValueError(
                f"{folder} is not the folder of a run (no config.yaml; it holds {', '.join(strangers[:5])}): "
                "choose another name with name=..."
            )
        write_text(saved, OmegaConf.to_yaml(OmegaConf.create(config)))
        return "new"
    changes = differing(resolved(OmegaConf.load(saved)), config)
    if changes and not (folder / "checkpoints").exists():
        # it never reached step 0 (a wrong reference, say): nothing is lost where the corrected command starts anew
        _empty(folder)
        return open_run(folder, cfg)
    if changes:
        lines = [f"  {key}: {_short(old)} -> {_short(new)}" for key, old, new in changes]
        raise ValueError(
            f"{folder} holds a run with another config:\n" + "\n".join(lines) + "\n"
            "Give this one another name with name=..., or throw the old one away with overwrite=true"
        )
    return "finished" if read_json(folder / "summary.json").get("status") == "finished" else "continued"


def resolved(cfg: DictConfig | ListConfig) -> dict[str, Any]:
    """The config as plain values, interpolations filled in."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def known(node: DictConfig) -> dict[str, Any]:
    """A part of the config as plain values; what the data fills in later (???) is left out."""
    return {key: value for key, value in resolved(node).items() if value != "???"}


def differing(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """The keys, outside of `EXEMPT`, whose values differ: (dotted key, old, new), `ABSENT` where there is none."""
    changes = []
    for key in sorted(old.keys() | new.keys()):
        name = f"{prefix}{key}"
        before, after = old.get(key, LATER.get(name, ABSENT)), new.get(key, ABSENT)
        if name in EXEMPT or before == after:
            continue
        if before == ABSENT and any(later.startswith(f"{name}.") for later in LATER):
            before = {}
        if isinstance(before, dict) and isinstance(after, dict):
            changes += differing(before, after, f"{name}.")
        else:
            changes.append((name, before, after))
    return changes


def _empty(folder: Path) -> None:
    """Takes everything out but the lock. A kill in between leaves a mark, and the next start goes on emptying."""
    if not (folder / "config.yaml").exists() and not (folder / _OVERWRITING).exists():
        return
    (folder / _OVERWRITING).touch()
    for path in folder.iterdir():
        if path.name in (".lock", _OVERWRITING):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    (folder / _OVERWRITING).unlink()


def _short(value: Any) -> str:
    text = value if value == ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
