"""What a run writes about itself: provenance.json at its start, summary.json at its end."""

import re
import secrets
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from callbacks.run import Summarized
from data.classified import ClassifiedDataModule
from data.module import TextDataModule
from data.probe import probe_hash
from dissimilarity.tables.files import sha256_of
from launch.cli.sweep import sweep_id
from launch.machine import choose_compile, choose_precision, device_of, kept_precision
from launch.run.ending import broken_off, ended
from launch.run.folder import read_json, write_json
from launch.run.provenance import origin, start
from launch.run.ranks import is_first, together, wait_for_first
from launch.run.start import Begun
from models.recipe_module import RecipeModule
from settings import PRECISIONS

ROOT = Path(__file__).resolve().parents[2]


def begin(
    folder: Path,
    cfg: DictConfig,
    data: TextDataModule | ClassifiedDataModule,
    module: RecipeModule,
    begun: Begun | None,
) -> dict[str, Any]:
    """Writes provenance.json and tokenizer.json of a new run; a continued one keeps its choices, notes one more start.

    Returns:
        The content of provenance.json.

    Raises:
        ValueError: the data under a continued run, or the model that it started from, has changed.
    """
    path = folder / "provenance.json"
    if not is_first():
        return wait_for_first(path)
    notes = _checked(read_json(path), path)
    if not notes:
        data.tokenizer.save(str(folder / "tokenizer.json"))
        notes = {
            **origin(ROOT),
            "sweep": sweep_id(),
            "wandb_id": secrets.token_hex(4),
            "data": {
                "fingerprint": data.fingerprint,
                "tokenizer_sha256": sha256_of(folder / "tokenizer.json"),
                "probe": probe_hash(data.probe(cfg.probe.sequences, cfg.probe.length, cfg.probe.split)),
                "d_vocab": data.d_vocab,
                **module.facts,
                **({"truncated": data.truncated} if isinstance(data, ClassifiedDataModule) else {}),
            },
            **({} if begun is None else {"start": begun.provenance}),
            "references": {},
            **_choices(cfg, data, module),
            "starts": [],
        }
    elif notes["data"]["fingerprint"] != data.fingerprint:
        raise ValueError(
            f"the data of {folder} has changed since it was begun: fingerprint "
            f"{notes['data']['fingerprint'][:12]} then, {data.fingerprint[:12]} now: put the old text back, "
            "or begin anew with name=... or overwrite=true"
        )
    if begun is not None and notes["start"]["sha256"] != begun.provenance["sha256"]:
        raise ValueError(
            f"start={begun.provenance['uri']} is no longer what {folder} was begun from: {notes['start']['path']} has "
            "another content; put it back, or begin anew with name=... or overwrite=true"
        )
    (folder / "summary.json").unlink(missing_ok=True)  # of a start that was cut short
    notes["starts"].append({**start(), "together": together()})
    write_json(path, notes)
    return notes


def _checked(notes: dict[str, Any], path: Path) -> dict[str, Any]:
    """Notes of an earlier start, which anyone may have written, in the form that `begin` gives them."""
    kinds = {"data": dict, "precision": dict, "compile": dict, "references": dict, "starts": list, "wandb_id": str}
    wrong = [key for key, kind in kinds.items() if notes and type(notes.get(key)) is not kind]
    if notes and not wrong:
        wrong += [] if isinstance(notes["data"].get("fingerprint"), str) else ["data"]
        wrong += [] if notes["precision"].get("chosen") in PRECISIONS else ["precision"]
        wrong += [] if isinstance(notes["compile"].get("chosen"), bool) else ["compile"]
        wrong += [] if re.fullmatch(r"\w+", notes["wandb_id"]) else ["wandb_id"]
    if wrong:
        raise ValueError(
            f"{path}: {', '.join(wrong)} is not what a run writes there; begin anew with name=... or overwrite=true"
        )
    return notes


def _choices(cfg: DictConfig, data: TextDataModule | ClassifiedDataModule, module: RecipeModule) -> dict[str, Any]:
    device = device_of(cfg.trainer.accelerator)
    asked = str(cfg.trainer.precision)
    choose = partial(choose_precision, asked, module.net, module.example(data.batch_size, data.n_ctx), device)
    shape = f"width {cfg.width}, depth {cfg.depth}, {data.batch_size} x {data.n_ctx} tokens of {module.reads}"
    measured = asked == "auto" and device.type == "cpu"
    precision = kept_precision(Path(cfg.data.get("cache_dir", "cache")), shape, choose) if measured else choose()
    compiled, reason = choose_compile(cfg.compile, cfg.trainer.max_steps, device, precision)
    return {
        "precision": asdict(precision),
        "compile": {"chosen": compiled, "why": reason},
    }


def end(folder: Path, trainer: pl.Trainer, module: RecipeModule, loggers: list[Any], seconds: float) -> dict[str, Any]:
    """Writes summary.json of a run that has come to its end, and returns its content; empty in other processes."""
    if not trainer.is_global_zero:
        return {}
    summary: dict[str, Any] = {
        **ended(trainer),
        "run": folder.name,
        "steps": trainer.global_step,
        **module.outcome({key: float(value) for key, value in trainer.callback_metrics.items()}),
        "seconds": round(seconds, 1),
        **_of_callbacks(trainer),
        "wandb": next((where for logger in loggers if (where := getattr(logger, "where", None))), None),
    }
    write_json(folder / "summary.json", summary)
    return summary


def cut_short(folder: Path, trainer: pl.Trainer, error: BaseException, seconds: float) -> None:
    """Writes summary.json of a run that did not come to its end, but has steps to go on from.

    Where even that cannot be written, what cut the run short is the message.
    """
    if not trainer.is_global_zero or not (folder / "checkpoints").exists():
        return
    summary = {**broken_off(error), "run": folder.name, "steps": trainer.global_step, "seconds": round(seconds, 1)}
    with suppress(OSError):
        write_json(folder / "summary.json", summary)


def _of_callbacks(trainer: pl.Trainer) -> dict[str, Any]:
    """Return what the callbacks say of the run."""
    entries: dict[str, Any] = {"tokens_per_second": None, "tracking_share": None, "drift": {}}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Summarized):
            entries |= callback.summary()
    return entries
