"""The files that a run writes about itself: provenance.json at its start, summary.json at its end."""

import secrets
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from callbacks.metrics import tables_of
from callbacks.run import Summarized
from data.module import TextDataModule
from data.probe import probe_hash
from data.text_classification import TextClassificationDataModule
from dissimilarity.report import page
from dissimilarity.tables.files import sha256_of
from launch.machine import choose_compile, choose_precision, kept_precision, training_device
from launch.run.ending import broken_off, ended
from launch.run.folder import read_json, write_json
from launch.run.form import MODEL, PROVENANCE, check_form
from launch.run.initial_weights import InitialWeights
from launch.run.provenance import origin, this_start
from launch.run.ranks import is_first, together, wait_for_first
from models.recipe_module import RecipeModule

ROOT = Path(__file__).resolve().parents[2]


def begin(
    folder: Path,
    cfg: DictConfig,
    data: TextDataModule | TextClassificationDataModule,
    module: RecipeModule,
    initial: InitialWeights | None,
    sweep: str | None,
) -> dict[str, Any]:
    """Write provenance.json and tokenizer.json of a new run; a continued one keeps its choices and adds this start.

    Returns:
        The content of provenance.json.

    Raises:
        ValueError: If the data of a continued run, or the model that it began from, has changed.
    """
    path = folder / "provenance.json"
    if not is_first():
        return wait_for_first(path)
    notes = read_json(path)
    if notes:
        check_form(notes, PROVENANCE, path)
    else:
        data.tokenizer.save(str(folder / "tokenizer.json"))
        notes = {
            **origin(ROOT),
            "sweep": sweep,
            "wandb_id": secrets.token_hex(4),
            "data": {
                "fingerprint": data.fingerprint,
                "tokenizer_sha256": sha256_of(folder / "tokenizer.json"),
                "probe": probe_hash(data.probe(cfg.probe.sequences, cfg.probe.length, cfg.probe.split)),
                "d_vocab": data.d_vocab,
                **module.facts,
                **({"truncated": data.truncated} if isinstance(data, TextClassificationDataModule) else {}),
            },
            **({} if initial is None else {"init_from": initial.provenance}),
            "parameters": module.n_parameters,
            "references": {},
            **_choices(cfg, data, module),
            "starts": [],
        }
    if notes["data"]["fingerprint"] != data.fingerprint:
        raise ValueError(
            f"the data of {folder} has changed since the run began (fingerprint "
            f"{notes['data']['fingerprint'][:12]} then, {data.fingerprint[:12]} now): put the old text "
            "back, or start over with name=... or overwrite=true"
        )
    if cfg.init_from is not None:
        check_form(notes.get("init_from"), MODEL, path, "init_from.")
    if initial is not None and notes["init_from"]["sha256"] != initial.provenance["sha256"]:
        raise ValueError(
            f"init_from={initial.provenance['uri']} is no longer what {folder} began from: the content of "
            f"{notes['init_from']['path']} has changed; put it back, or start over with name=... or overwrite=true"
        )
    (folder / "summary.json").unlink(missing_ok=True)  # of a start that was interrupted
    notes["starts"].append({**this_start(), "together": together()})
    write_json(path, notes)
    return notes


def _choices(
    cfg: DictConfig, data: TextDataModule | TextClassificationDataModule, module: RecipeModule
) -> dict[str, Any]:
    device = training_device(cfg.trainer.accelerator)
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
    """Write summary.json and report.html of a run that has ended.

    Returns:
        The content of summary.json; empty in processes other than the first.
    """
    if not trainer.is_global_zero:
        return {}
    summary: dict[str, Any] = {
        **ended(trainer),
        "run": folder.name,
        "steps": trainer.global_step,
        "parameters": module.n_parameters,
        **module.outcome(_last_metrics(trainer)),
        "seconds": round(seconds, 1),
        **_of_callbacks(trainer),
        "wandb": next((where for logger in loggers if (where := getattr(logger, "where", None))), None),
    }
    write_json(folder / "summary.json", summary)
    page.refresh(folder)
    return summary


def _last_metrics(trainer: pl.Trainer) -> dict[str, float]:
    """Return the last value of each metric, also of earlier starts: the last one may have had no step left to do."""
    rows = [row for table in tables_of(trainer) for row in table.steps().values()]
    return {key: float(value) for row in [*rows, trainer.callback_metrics] for key, value in row.items()}


def cut_short(folder: Path, trainer: pl.Trainer, error: BaseException, seconds: float) -> None:
    """Write summary.json of a run that was cut short but has steps to continue from.

    If even that cannot be written, the error that cut the run short remains the message.
    """
    if not trainer.is_global_zero or not (folder / "checkpoints").exists():
        return
    summary = {**broken_off(error), "run": folder.name, "steps": trainer.global_step, "seconds": round(seconds, 1)}
    with suppress(OSError):
        write_json(folder / "summary.json", summary)
        page.refresh(folder)


def _of_callbacks(trainer: pl.Trainer) -> dict[str, Any]:
    """Return what the callbacks say of the run."""
    entries: dict[str, Any] = {"tokens_per_second": None, "tracking_share": None, "drift": {}, "final": [], "moves": {}}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Summarized):
            entries |= callback.summary()
    return entries
