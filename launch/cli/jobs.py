"""One job of the command line: it trains, reports how that ended, and leaves an exit code or a status of the sweep."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from callbacks import signals
from callbacks.interrupted import Interrupted, OutOfTime
from launch.cli.consent import named
from launch.cli.messages import report
from launch.cli.sweep import COLUMNS, begin_status, in_search, in_sweep, job_name, write_status
from launch.run.ranks import is_first
from trusted import naming


def job(cfg: DictConfig, train: Callable[[DictConfig], dict[str, Any]]) -> float | None:
    """Run `train(cfg)`.

    Returns:
        The number that `optimized_metric` names, for a sweeper such as Optuna; None if the run has none.

    Raises:
        SystemExit: If it did not finish. In a sweep only after a signal: a failed job leaves its status, and the next
            job runs.
    """
    signals.take_over()  # again, because a launcher may run jobs in its own processes
    name = cfg.name = job_name(cfg)
    start_time = time.monotonic()
    if in_sweep():
        print(f"\njob {HydraConfig.get().job.num}: {name}", flush=True)
    begin_status(name)
    try:
        with naming(named(cfg)), signals.restored():
            summary = train(cfg)
    except signals.Stopped:
        write_status(status="interrupted", seconds=round(time.monotonic() - start_time, 1))
        raise
    except Exception as error:
        code = _ended(error, name, seconds=time.monotonic() - start_time)
        if in_sweep() and code < 128:
            _stop_where_asked()
            return None
        sys.exit(code)
    value = None
    if is_first():
        _finished(cfg, summary)
        value = _optimized(cfg, summary)
    _stop_where_asked()
    return value


def _stop_where_asked() -> None:
    """End a sweep after a signal that came while a job failed, or that a library swallowed."""
    if signals.received():
        raise signals.Stopped(signals.received())


def _ended(error: Exception, name: str, seconds: float) -> int:
    if isinstance(error, Interrupted) and not is_first():
        return 0  # when one process fails, Lightning kills the others, which may still be saving
    if isinstance(error, OutOfTime):
        write_status(status="stopped", steps=error.step, message=str(error), seconds=round(seconds, 1))
        print(
            f"{name} stopped after step {error.step:,} (trainer.max_time) and is saved; "
            "run the same command again to continue"
        )
        return 0
    if isinstance(error, Interrupted):
        write_status(status="interrupted", steps=error.step, seconds=round(seconds, 1))
        if is_first():
            print(
                f"{name} stopped after step {error.step:,} and is saved; run the same command again to continue",
                file=sys.stderr,
            )
        return 128 + error.signum
    code, message = report(error, HydraConfig.get().overrides.task)
    write_status(status="failed", message=message, seconds=round(seconds, 1))
    return code


def _optimized(cfg: DictConfig, summary: dict[str, Any]) -> float | None:
    from launch.run.optimized import optimized

    try:
        value = optimized(cfg.optimized_metric, Path(cfg.runs_dir) / summary["run"], summary)
    except ValueError as error:
        if in_search():
            _ended(error, summary["run"], summary["seconds"])
        return None
    if in_search() and cfg.optimized_metric not in COLUMNS:
        write_status(optimized=value)
    return value


def _finished(cfg: DictConfig, summary: dict[str, Any]) -> None:
    from launch.run.summary import next_command, show_end

    folder = Path(cfg.runs_dir) / summary["run"]
    if summary["state"] == "finished":
        state = "is finished" if summary["status"] == "finished" else f"has {summary['status']}"
        print(f"{folder} {state} already; type overwrite=true to train it again")
    if not in_sweep():
        show_end(folder, summary, next_command(cfg, folder, list(HydraConfig.get().overrides.task)))
    write_status(**{key: summary[key] for key in COLUMNS if key in summary})
