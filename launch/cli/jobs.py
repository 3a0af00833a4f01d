"""One job of the command line: it trains, reports how that ended, and leaves an exit code or a status of the sweep."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import settings
from callbacks import signals
from callbacks.interrupted import Interrupted, OutOfTime
from launch.cli.consent import named
from launch.cli.messages import report
from launch.cli.sweep import COLUMNS, in_sweep, write_status
from launch.run.ranks import is_first
from trusted import naming


def job(cfg: DictConfig, train: Callable[[DictConfig], dict[str, Any]]) -> None:
    """Run `train(cfg)`.

    Raises:
        SystemExit: If it did not finish. In a sweep only after a signal: a failed job leaves its status, and the next
            job runs.
    """
    signals.take_over()  # again, because a launcher may run jobs in its own processes
    name, start_time = settings.run_name(cfg), time.monotonic()
    if in_sweep():
        print(f"\njob {HydraConfig.get().job.num}: {name}", flush=True)
    write_status(run=name, status="running")
    try:
        with naming(named(cfg)):
            summary = train(cfg)
    except signals.Stopped:
        write_status(status="interrupted", seconds=round(time.monotonic() - start_time, 1))
        raise
    except Exception as error:
        code = _ended(error, name, seconds=time.monotonic() - start_time)
        if in_sweep() and code < 128:
            _stop_where_asked()
            return
        sys.exit(code)
    if is_first():
        _finished(cfg, summary)
    _stop_where_asked()


def _stop_where_asked() -> None:
    """End a sweep after a signal that came while a job failed, or that a library swallowed."""
    if signals.received():
        raise signals.Stopped(signals.received())


def _ended(error: Exception, name: str, seconds: float) -> int:
    if isinstance(error, Interrupted) and not is_first():
        return 0  # when one process fails, Lightning kills the others, which may still be saving
    if isinstance(error, OutOfTime):
        write_status(status="stopped", steps=error.step, message=str(error), seconds=round(seconds, 1))
        print(f"{name} stopped after step {error.step} (trainer.max_time) and is saved; the same command continues it")
        return 0
    if isinstance(error, Interrupted):
        write_status(status="interrupted", steps=error.step, seconds=round(seconds, 1))
        if is_first():
            print(
                f"{name} stopped after step {error.step} and is saved; the same command continues it", file=sys.stderr
            )
        return 128 + error.signum
    code, message = report(error, HydraConfig.get().overrides.task)
    write_status(status="failed", message=message, seconds=round(seconds, 1))
    return code


def _finished(cfg: DictConfig, summary: dict[str, Any]) -> None:
    from launch.run.summary import next_command, show_end

    folder = Path(cfg.runs_dir) / summary["run"]
    if summary["state"] == "finished":
        state = "is finished" if summary["status"] == "finished" else f"has {summary['status']}"
        print(f"{folder} {state} already; type overwrite=true to train it again")
    if not in_sweep():
        show_end(folder, summary, next_command(cfg, folder, list(HydraConfig.get().overrides.task)))
    write_status(**{key: summary[key] for key in COLUMNS if key in summary})
