"""Weights & Biases without prompts: offline unless asked, one W&B run per run, the same one when it continues."""

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import WandbLogger

from callbacks.run import Run
from dissimilarity.tracking.logger_keys import KINDS, STEP_AXIS, sectioned

MODES = ("offline", "online", "shared", "disabled")
# longest time that a training waits at its start for a W&B server that does not answer
INIT_SECONDS = 30.0


class WandbRun(WandbLogger):
    """Lightning's WandbLogger, set up so that it never asks, never ends a training, and never mixes two runs.

    Args:
        name: name of the run.
        folder: folder of the run; W&B's files go to its `wandb/`.
        run_id: id of the W&B run, the same when the run continues.
        project, entity, tags: as in W&B.
        console: whether the Logs tab has what the terminal shows.
        group: as in W&B; by default the sweep.
        mode: offline, online, shared or disabled; None: WANDB_MODE, else online if WANDB_API_KEY is set, else offline.
            If W&B cannot start online, the run is offline and a message says so.
        log_model: checkpoints to keep as artifacts: False, True (the last one) or "all".
        finish_timeout: seconds that a finished training waits for the server to take everything; after that, what is
            left is on disk for `wandb sync`.
        run: the run, which gives id and sweep.

    Attributes:
        where: address of the W&B run, or the command that uploads it; None before it starts.

    Raises:
        ValueError: `mode` or `log_model` is unknown.
    """

    def __init__(
        self,
        name: str,
        folder: str | Path,
        run_id: str | None = None,
        project: str = "dissimilarity",
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: str | None = None,
        log_model: bool | Literal["all"] = False,
        finish_timeout: float = 60.0,
        console: bool = True,
        run: Run | None = None,
    ) -> None:
        self.mode = chosen_mode(mode)
        if log_model not in (False, True, "all"):
            raise ValueError(f"logger.wandb.log_model={log_model}: expected false, true or all")
        if run is not None:
            run_id, group = run.provenance["wandb_id"], group or run.provenance["sweep"]
        self.parameters = None if run is None else run.provenance.get("parameters")
        super().__init__(
            name=name,
            save_dir=folder,
            id=run_id,
            project=project,
            entity=entity,
            group=group,
            tags=list(tags or []),
            log_model=log_model,
            mode=self.mode,
            settings=_settings(finish_timeout, console),
        )
        self._wandb_init["resume"] = "allow" if self.mode in ("online", "shared") else None
        # deprecated in W&B: merely passing it brings a warning
        self._wandb_init.pop("anonymous", None)
        self.finish_timeout = finish_timeout
        self.where: str | None = None
        self.folder, self.run_name = Path(folder), name

    @property
    def experiment(self) -> Any:
        """W&B's run object, started on first use: in `mode`, else offline, else one that does nothing."""
        for fallback in ("offline", "disabled"):
            try:
                return self._start()
            except Exception as error:
                if self._experiment is not None:
                    raise
                self._fall_back(fallback, error)
        return self._start()

    def _start(self) -> Any:
        run = WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]
        if self.where is None and not getattr(run, "disabled", True):
            folder = Path(run.dir).parent
            self.where = run.url if self.mode != "offline" else f"wandb sync {os.path.relpath(folder)}"
            run.define_metric("val/loss", step_metric=STEP_AXIS, step_sync=True, summary="min,last")
            if self.parameters is not None:
                run.summary["parameters"] = self.parameters
        return run

    def _fall_back(self, mode: str, error: Exception) -> None:
        import wandb

        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        print(f"could not start W&B {self.mode}, continuing {mode} ({reason})", file=sys.stderr)
        # W&B's service would keep the id of the failed run
        wandb.teardown()
        self.mode = mode
        self._wandb_init.update(mode=mode, resume=None)

    def replay(self, steps: Mapping[int, Mapping[str, float]]) -> None:
        """Log again what earlier sessions of this run logged, if the new one would start empty.

        Offline, each session has a folder of its own, and a kill leaves a torn one. After this, the newest folder holds
        the whole run and is the one to sync. A server has the earlier sessions already.
        """
        if self.mode != "offline":
            return
        keys = {key for row in steps.values() for key in row if key != "step"}
        sections = {key: sectioned(key) if key.startswith(KINDS) else key for key in keys}
        for key in sorted(keys):
            if key.startswith(KINDS):
                self.experiment.define_metric(sections[key], step_metric=STEP_AXIS)
        for step, row in steps.items():
            self.log_metrics({sections[key]: value for key, value in row.items() if key != "step"}, step=step)

    def log_lines(self, key: str, lines: Mapping[str, tuple[list[int], list[float]]], step: int) -> None:
        """Draw several lines in one chart, which replaces an earlier one of the same key.

        Args:
            key: the key; its first part is the section.
            lines: steps and values of each line, by its name.
            step: the step up to which they go.
        """
        import wandb

        steps, values = zip(*lines.values(), strict=True)
        title = key.rpartition("/")[2]
        chart = wandb.plot.line_series(steps, values, list(lines), title, STEP_AXIS, split_table=True)
        self.experiment.log({key: chart, STEP_AXIS: step})

    def log_checkpoint(self, path: Path, step: int, last: bool) -> None:
        """Keep a checkpoint as a version of the artifact NAME, with tokenizer and config, if `log_model` asks for it.

        The reference wandb:ENTITY/PROJECT/NAME:step_512 then names that of step 512. Offline, the artifact stays beside
        the run, and `wandb sync` uploads both.
        """
        if not (self._log_model == "all" or (self._log_model and last)):
            return
        import wandb

        name = re.sub(r"[^A-Za-z0-9._-]", "-", self.run_name)
        artifact = wandb.Artifact(name, type="model", metadata={"step": step, "run": self.run_name})
        artifact.add_file(str(path), name=f"{path.parent.name}/{path.name}")  # as in the folder of the run
        for file_name in ("tokenizer.json", "config.yaml"):
            if (self.folder / file_name).is_file():
                artifact.add_file(str(self.folder / file_name))
        self.experiment.log_artifact(artifact, aliases=["latest", f"step_{step}"])

    def finish(self, exit_code: int = 0) -> None:
        """Finish the W&B run, if one was started, so that the next one in this process is a new one."""
        run, self._experiment = self._experiment, None
        if run is None:
            return
        folder = Path(run.dir).parent
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            command = f"wandb sync {os.path.relpath(folder)}"
            print(f"W&B did not take everything within {self.finish_timeout:g} s; {command} sends it", file=sys.stderr)

    def abandon(self) -> None:
        """Kill W&B's own process after a failure, because this process would wait for it at its end, maybe forever."""
        from wandb.sdk import wandb_setup

        connection = wandb_setup.singleton()._connection
        if connection is not None and connection.owns_service:
            connection._proc._process.kill()  # pyright: ignore
        with suppress(Exception, SystemExit):  # the connection is broken now; the next run gets a new one
            wandb_setup.teardown()


def chosen_mode(mode: str | None) -> str:
    """Return the mode: the one asked for, WANDB_MODE, online with a key, or offline.

    Examples:
        >>> chosen_mode("disabled")
        'disabled'
    """
    asked = mode or os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    current_name = {"dryrun": "offline", "run": "online"}.get(asked, asked)
    if current_name not in MODES:
        raise ValueError(f"logger.wandb.mode={asked}: expected one of {', '.join(MODES)}")
    return current_name


def _settings(finish_timeout: float, console: bool) -> Any:
    import wandb

    times = {"init_timeout": INIT_SECONDS, "finish_timeout": finish_timeout, "finish_timeout_raises": True}
    return wandb.Settings(silent=True, console="wrap" if console else "off", **times)
