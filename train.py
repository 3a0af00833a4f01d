"""Train a model and track how far its layers are from reference models: `python train.py --help`.

Nothing heavy is imported before `main` runs, so that help and messages appear at once.
"""

if __name__ == "__main__":
    from callbacks import signals

    signals.take_over()  # before the first import that takes time

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, open_dict

import settings
from launch.cli.command import run
from launch.cli.rehearsal import absent, rehearse, taken_back
from launch.cli.sweep import sweep_id, typed_overrides
from launch.cli.validate import validate
from launch.run.folder import is_over, open_run, read_json, resolved, without_missing
from launch.run.initial_weights import InitialWeights, resolve_init, tokenizer_of
from launch.run.links import refuse_links
from launch.run.lock import locked
from launch.run.ranks import is_first, waiting

if TYPE_CHECKING:
    from pytorch_lightning import Callback
    from pytorch_lightning.loggers import Logger

    from data.module import TextDataModule
    from models.recipe_module import RecipeModule

ROOT = Path(__file__).resolve().parent

settings.register()


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="train")
def main(cfg: DictConfig) -> None:
    """Run one job, alone or of a sweep, and turn its end into an exit code or a status of the sweep."""
    from launch.cli.jobs import job

    job(cfg, train)


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train what `cfg` describes, continue it, or find it finished.

    Returns:
        The content of the run's summary.json.

    Raises:
        ValueError: If it cannot train; nothing was written, or nothing that the next start does not repair.
        callbacks.interrupted.Interrupted: If a signal ended it; everything is saved.
    """
    validate(cfg)
    with open_dict(cfg):
        cfg.name = settings.run_name(cfg)
    folder = Path(cfg.runs_dir) / cfg.name
    initial = resolve_init(cfg, typed_overrides(), folder)
    if not is_first():
        finished = read_json(folder / "summary.json")
        return finished if is_over(finished) and not cfg.overwrite else fit(cfg, folder, initial)
    refuse_links(folder)
    new_folders = absent(folder)
    with locked(folder), taken_back(new_folders, lambda folder: not (folder / "checkpoints").exists()):
        if cfg.overwrite or not (folder / "config.yaml").exists():
            rehearse(cfg, folder)
        state = open_run(folder, cfg)
        if state != "finished":
            fit(cfg, folder, initial)
        return read_json(folder / "summary.json") | {"state": state}


def fit(cfg: DictConfig, folder: Path, initial: InitialWeights | None) -> dict[str, Any]:
    """Build the parts and train. The folder is locked and holds config.yaml."""
    start_time = time.monotonic()
    from launch.cli.quiet import silence
    from launch.machine import keep_freed_memory

    keep_freed_memory()
    silence()
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import Checkpoint

    from callbacks.loggers import close
    from callbacks.time_limit import TimeLimit
    from launch.run import record, summary
    from models.checkpoints import check_checkpoint
    from models.continuing import checkpoint_of
    from models.initial_model import load_into

    silence()
    last = checkpoint_of(folder)
    pl.seed_everything(cfg.seed, verbose=False)
    data = settings.instantiate(cfg.data, **tokenizer_of(cfg, folder))
    data.prepare_data()
    data.setup("fit")
    module = settings.instantiate(cfg.task)(
        data, net=without_missing(cfg.model), optim=without_missing(cfg.optim), init_seed=cfg.init_seed
    )
    if initial is not None:
        load_into(module.net, initial.weights)
    notes = record.begin(folder, cfg, data, module, initial, sweep_id())
    loggers = build_loggers(cfg, folder, notes)
    callbacks = build_callbacks(cfg, folder, data, module)
    if cfg.trainer.get("max_time"):
        callbacks.append(TimeLimit(cfg.trainer.max_time))
    trainer = settings.instantiate(
        cfg.trainer,
        precision=notes["precision"]["chosen"],
        callbacks=callbacks,
        max_time=None,
        logger=loggers,
        default_root_dir=str(folder),
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )
    if notes["compile"]["chosen"]:
        module.net.compile()
    if is_first():
        summary.show_start(folder, cfg, data, module, notes, continued=last is not None)
        if message := waiting(trainer):
            print(message, flush=True)
    for logger in loggers:
        logger.log_hyperparams({**resolved(cfg), "provenance": notes})
    if last is not None:
        check_checkpoint(last)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=None if last is None else str(last), weights_only=True)
        return record.end(folder, trainer, module, loggers, seconds=time.monotonic() - start_time)
    except BaseException as error:
        record.cut_short(folder, trainer, error, seconds=time.monotonic() - start_time)
        raise
    finally:
        close(loggers)


def build_loggers(cfg: DictConfig, folder: Path, notes: dict[str, Any]) -> "list[Logger]":
    """The metrics table, which every run has, and the loggers of the config, none of which can end a training."""
    from callbacks.loggers import guarded
    from callbacks.metrics import MetricsLogger

    chosen = []
    for name, node in (cfg.logger or {}).items():
        extra = {"run_id": notes["wandb_id"], "group": node.group or notes["sweep"]} if name == "wandb" else {}
        chosen.append(guarded(settings.instantiate(node, **extra)))
    return [MetricsLogger(folder), *chosen]


def build_callbacks(cfg: DictConfig, folder: Path, data: "TextDataModule", module: "RecipeModule") -> "list[Callback]":
    """The callbacks of the config, in its order; those on which others wait (checkpoints) Lightning puts last."""
    from launch.cli.sweep import side_by_side
    from launch.run.references import find

    given: dict[str, dict[str, Any]] = {"console": {"bar": False} if side_by_side() else {}}
    if {"tracker", "stitching"} & set(cfg.callbacks or {}):
        probe = data.probe(cfg.probe.sequences, cfg.probe.length, cfg.probe.split)
        found = find(cfg, folder, data.tokenizer, probe)
        given["tracker"] = {
            "probe": probe,
            "load": found.load,
            "align": found.alignments.get,
            "mask": None if cfg.include_padding else module.real(probe),
            "tokens_per_step": data.tokens_per_step * cfg.trainer.accumulate_grad_batches,
        }
        given["stitching"] = {
            "probe": lambda sequences: data.probe(sequences, cfg.probe.length, cfg.probe.split),
            "load": found.load,
        }
        if "stitching" in cfg.callbacks and found.alignments:
            raise ValueError(
                f"references: {', '.join(found.alignments)} reads other tokens than this run, so that no loss of the "
                "one stitched into the other is to be had while training; leave it out, or type callbacks=default"
            )
    return [settings.instantiate(node, **given.get(name, {})) for name, node in (cfg.callbacks or {}).items()]


if __name__ == "__main__":
    sys.exit(run(main, "train"))
