"""Train a model and track how far its layers are from reference models: `python train.py --help`.

Nothing heavy is imported before `main` runs, so that help and messages appear at once.
"""

if __name__ == "__main__":
    from callbacks import signals
    from launch.cli import starting

    signals.take_over()  # before the first import that takes time
    starting.begin()

import sys
import time
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, open_dict
from rich.console import Console
from rich.status import Status

import settings
from launch.cli import starting
from launch.cli.command import run
from launch.cli.rehearsal import absent, rehearse, taken_back
from launch.cli.sweep import sweep_id, typed_overrides
from launch.cli.validate import validate
from launch.run.folder import chosen, is_over, open_run, read_json
from launch.run.form import read_summary
from launch.run.initial_weights import InitialWeights, resolve_init, tokenizer_of
from launch.run.links import refuse_links
from launch.run.lock import locked
from launch.run.ranks import is_first, waiting

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer
    from pytorch_lightning.loggers import Logger

    from callbacks.run import Run

ROOT = Path(__file__).resolve().parent

settings.register()


@hydra.main(version_base="1.3", config_path=str(ROOT / "conf"), config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run one job, alone or of a sweep, and turn its end into an exit code or a status of the sweep.

    Returns:
        The number that `optimized_metric` names.
    """
    from launch.cli.jobs import job

    return job(cfg, train)


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
    with Console(stderr=True, quiet=not is_first()).status("loading the libraries") as status:
        initial = resolve_init(cfg, typed_overrides(), folder)
        if not is_first():
            finished = read_json(folder / "summary.json")
            return finished if is_over(finished) and not cfg.overwrite else fit(cfg, folder, initial, status)
        refuse_links(folder)
        new_folders = absent(folder)
        with locked(folder), taken_back(new_folders, lambda folder: not (folder / "checkpoints").exists()):
            if cfg.overwrite or not (folder / "config.yaml").exists():
                rehearse(cfg, folder)
            state = open_run(folder, cfg)
            if state != "finished":
                fit(cfg, folder, initial, status)
            return read_summary(folder) | {"run": folder.name, "state": state}


def fit(cfg: DictConfig, folder: Path, initial: InitialWeights | None, status: Status) -> dict[str, Any]:
    """Build the parts and train. The folder is locked and holds config.yaml.

    Args:
        cfg: the config.
        folder: the run folder.
        initial: the weights that the model begins with, if they are given.
        status: the line that says what is being done until training begins.
    """
    start_time = time.monotonic()
    from launch.cli.quiet import silence
    from launch.machine import keep_freed_memory

    keep_freed_memory()
    silence()
    import pytorch_lightning as pl

    from callbacks import signals
    from callbacks.loggers import close
    from callbacks.run import Run
    from launch.cli.sweep import side_by_side
    from launch.run import record, summary
    from launch.run.module import build_module
    from launch.run.references import find
    from models.checkpoints import check_checkpoint
    from models.continuing import checkpoint_of, restoring
    from models.initial_model import load_into

    silence()
    starting.imported()
    last = checkpoint_of(folder)
    pl.seed_everything(cfg.seed, verbose=False)
    status.update("reading the text (the first time it also trains the tokenizer, about 10 s)")
    data = settings.instantiate(cfg.data, **tokenizer_of(cfg, folder))
    data.prepare_data()
    data.setup("fit")
    module = build_module(cfg, data)
    if initial is not None:
        load_into(module.net, initial.weights)
    status.update("timing a training step")
    notes = record.begin(folder, cfg, data, module, initial, sweep_id())
    status.update("loading the references")
    find_references = partial(find, cfg, folder, data.tokenizer)
    context = Run(cfg, folder, notes, data, module, find_references, beside_others=side_by_side())
    loggers, callbacks = build_loggers(context), build_callbacks(context)
    trainer = build_trainer(context, loggers, callbacks)
    if trainer.strategy.launcher is not None:
        signals.end_with_this(trainer.strategy.launcher.kill)
    if notes["compile"]["chosen"]:
        module.net.compile()
    status.stop()
    if is_first():
        summary.show_start(folder, cfg, data, module, notes, continued=last is not None)
        if message := waiting(trainer):
            print(message, flush=True)
    for logger in loggers:
        logger.log_hyperparams({**chosen(cfg), "provenance": notes})
    if last is not None:
        check_checkpoint(last)
    try:
        with restoring(last):
            trainer.fit(module, datamodule=data, ckpt_path=None if last is None else str(last), weights_only=True)
        return record.end(folder, trainer, module, loggers, seconds=time.monotonic() - start_time)
    except BaseException as error:
        record.cut_short(folder, trainer, error, seconds=time.monotonic() - start_time)
        raise
    finally:
        close(loggers)


def build_loggers(run: "Run") -> "list[Logger]":
    """Return the metrics table, which every run has, and the loggers of the config, which cannot end a training."""
    from pytorch_lightning.loggers import Logger

    from callbacks.loggers import guarded
    from callbacks.metrics import MetricsLogger

    return [MetricsLogger(run.folder), *(guarded(build(node, run, Logger)) for node in (run.cfg.logger or {}).values())]


def build_callbacks(run: "Run") -> "list[Callback]":
    """Return the callbacks of the config in its order, and the time limit; Lightning puts checkpoints last."""
    from pytorch_lightning import Callback

    from callbacks.time_limit import TimeLimit

    callbacks = [build(node, run, Callback) for node in (run.cfg.callbacks or {}).values()]
    max_time = run.cfg.trainer.get("max_time")
    return [*callbacks, TimeLimit(max_time)] if max_time else callbacks


def build_trainer(run: "Run", loggers: "list[Logger]", callbacks: "list[Callback]") -> "Trainer":
    """Return the Trainer of the config, in the precision of the run."""
    from pytorch_lightning.callbacks import Checkpoint

    return settings.instantiate(
        run.cfg.trainer,
        precision=run.provenance["precision"]["chosen"],
        callbacks=callbacks,
        max_time=None,
        logger=loggers,
        default_root_dir=str(run.folder),
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )


def build(node: DictConfig, run: "Run", kind: type) -> Any:
    """Build a callback or logger of the config, with the run if it takes an argument ``run``.

    Raises:
        ValueError: If it is not a `kind`.
    """
    make = settings.instantiate(node, _partial_=True)
    part = make(run=run) if "run" in signature(make.func).parameters else make()
    if not isinstance(part, kind):
        raise ValueError(f"{node._target_}: expected a {kind.__name__}, found {type(part).__name__}")
    return part


if __name__ == "__main__":
    starting.clear()
    sys.exit(run(main, "train"))
