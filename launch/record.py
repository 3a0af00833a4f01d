"""What a run writes about itself: provenance.json at its start, summary.json at its end."""

import hashlib
import math
import secrets
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from data.module import TextDataModule
from data.probe import probe_hash
from launch.folder import read_json, write_json
from launch.machine import choose_compile, choose_precision, device_of, kept_precision
from launch.provenance import origin, start
from launch.ranks import is_first, together, wait_for_first
from launch.sweep import sweep_id
from models.language_model import LanguageModel

ROOT = Path(__file__).resolve().parent.parent


def begin(folder: Path, cfg: DictConfig, data: TextDataModule, module: LanguageModel) -> dict[str, Any]:
    """Writes provenance.json and tokenizer.json of a new run; a continued one keeps its choices, notes one more start.

    Returns:
        The content of provenance.json.

    Raises:
        ValueError: the data under a continued run has changed.
    """
    path = folder / "provenance.json"
    if not is_first():
        return wait_for_first(path)
    notes = read_json(path)
    if not notes:
        data.tokenizer.save(str(folder / "tokenizer.json"))
        notes = {
            **origin(ROOT),
            "sweep": sweep_id(),
            "wandb_id": secrets.token_hex(4),
            "data": {
                "fingerprint": data.fingerprint,
                "tokenizer_sha256": hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest(),
                "probe": probe_hash(data.probe(cfg.probe.sequences, cfg.probe.length, cfg.probe.split)),
                "d_vocab": data.d_vocab,
                "bytes_per_token": data.bytes_per_token,
                "unigram_loss": data.unigram_loss,
            },
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
    notes["starts"].append({**start(), "together": together()})
    write_json(path, notes)
    return notes


def _choices(cfg: DictConfig, data: TextDataModule, module: LanguageModel) -> dict[str, Any]:
    device = device_of(cfg.trainer.accelerator)
    tokens = torch.randint(data.d_vocab, (data.batch_size, data.n_ctx + 1), generator=torch.Generator().manual_seed(0))
    asked = str(cfg.trainer.precision)
    choose = partial(choose_precision, asked, module.net, tokens, device)
    shape = f"width {cfg.width}, depth {cfg.depth}, {data.batch_size} x {data.n_ctx} tokens of {data.d_vocab}"
    measured = asked == "auto" and device.type == "cpu"
    precision = kept_precision(Path(cfg.data.cache_dir), shape, choose) if measured else choose()
    compiled, reason = choose_compile(cfg.compile, cfg.trainer.max_steps, device, precision)
    return {
        "precision": asdict(precision),
        "compile": {"chosen": compiled, "why": reason},
    }


def end(folder: Path, trainer: pl.Trainer, data: TextDataModule, loggers: list[Any], seconds: float) -> dict[str, Any]:
    """Writes summary.json of a finished run, with which it counts as finished, and returns its content."""
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    loss = metrics.get("val/loss")
    per_byte = 1 / (math.log(2) * data.bytes_per_token)
    summary: dict[str, Any] = {
        "status": "finished",
        "run": folder.name,
        "steps": trainer.global_step,
        "val_loss": loss,
        "bits_per_byte": metrics.get("val/bits_per_byte"),
        "perplexity": metrics.get("val/perplexity"),
        "accuracy": metrics.get("val/accuracy"),
        "unigram_loss": data.unigram_loss,
        "unigram_bits_per_byte": data.unigram_loss * per_byte,
        "seconds": round(seconds, 1),
        "tokens_per_second": _speed(trainer),
        "tracking_share": _tracking_share(trainer),
        "wandb": next((where for logger in loggers if (where := getattr(logger, "where", None))), None),
    }
    if trainer.is_global_zero:
        write_json(folder / "summary.json", summary)
    return summary


def _speed(trainer: pl.Trainer) -> float | None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        tokens, seconds = getattr(callback, "tokens", 0), getattr(callback, "seconds", 0.0)
        if tokens and seconds:
            return round(tokens / seconds, 1)
    return None


def _tracking_share(trainer: pl.Trainer) -> float | None:
    shares = [getattr(callback, "share", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    return next((float(share) for share in shares if share is not None), None)
