"""Weights & Biases without prompts: offline unless asked, one W&B run for each run, the same one when it continues."""

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import WandbLogger

from callbacks.run import Run
from dissimilarity.tracking.logger_keys import STEP_AXIS

MODES = ("offline", "online", "shared", "disabled")
# a training waits no longer than this for a W&B server that does not answer as it begins
INIT_SECONDS = 30.0


class WandbRun(WandbLogger):
    """Lightning's WandbLogger, put up so that it never asks, never ends a training, and never mixes two runs.

    Args:
        name: name of the run.
        folder: run folder; W&B's files go to its `wandb/`.
        run_id: stays the same when the run continues.
        mode: offline, online, shared or disabled; None takes WANDB_MODE, else online if WANDB_API_KEY is set, else
            offline. Where going online fails, the run is offline and a line says so.
        project, entity, group, tags: W&B's own.
        log_model: which checkpoints are kept as artifacts: False, True (the last one) or "all".
        finish_timeout: seconds that a finished training waits for the server to take the rest; what it has not taken
            by then is on disk, for `wandb sync`.

    Raises:
        ValueError: a mode that W&B does not know, or another log_model.
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
        run: Run | None = None,
    ) -> None:
        self.mode = chosen_mode(mode)
        if log_model not in (False, True, "all"):
            raise ValueError(f"logger.wandb.log_model={log_model}: expected false, true or all")
        if run is not None:
            run_id, group = run.provenance["wandb_id"], group or run.provenance["sweep"]
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
            settings=_settings(finish_timeout),
        )
        self._wandb_init["resume"] = "allow" if self.mode in ("online", "shared") else None
        # deprecated in W&B: merely passing it brings a warning
        self._wandb_init.pop("anonymous", None)
        self.finish_timeout = finish_timeout
        self.where: str | None = None
        self.folder, self.run_name = Path(folder), name

    @property
    def experiment(self) -> Any:
        """W&B's run object, begun when first asked for: as `mode` says, else offline, else one that does nothing."""
        for fallback in ("offline", "disabled"):
            try:
                return self._begin()
            except Exception as error:
                if self._experiment is not None:
                    raise
                self._fall_back(fallback, error)
        return self._begin()

    def _begin(self) -> Any:
        run = WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]
        if self.where is None and not getattr(run, "disabled", True):
            folder = Path(run.dir).parent
            self.where = run.url if self.mode != "offline" else f"wandb sync {os.path.relpath(folder)}"
        return run

    def _fall_back(self, mode: str, error: Exception) -> None:
        import wandb

        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        print(f"W&B could not begin {self.mode} ({reason}); it goes on {mode}", file=sys.stderr)
        # W&B's service would hold on to the id of the run that failed
        wandb.teardown()
        self.mode = mode
        self._wandb_init.update(mode=mode, resume=None)

    def replay(self, steps: Mapping[int, Mapping[str, float]]) -> None:
        """Logs again what earlier sessions of this run logged, where the new one would begin empty.

        Offline each session has a folder of its own, and what a kill left in an earlier one is torn: with this the
        newest folder holds the whole run, and is the one to sync. A server has the earlier sessions already.
        """
        if self.mode != "offline":
            return
        for key in sorted({key for row in steps.values() for key in row if key.startswith("dissimilarity/")}):
            self.experiment.define_metric(key, step_metric=STEP_AXIS)
        for step, row in steps.items():
            self.log_metrics({key: value for key, value in row.items() if key != "step"}, step=step)

    def log_checkpoint(self, path: Path, step: int, last: bool) -> None:
        """Keeps a checkpoint as a version of the artifact NAME, with tokenizer and config, if `log_model` asks for it.

        The reference wandb:ENTITY/PROJECT/NAME:step_512 is then that of step 512. Offline it is kept beside the run
        and goes with it in `wandb sync`.
        """
        if not (self._log_model == "all" or (self._log_model and last)):
            return
        import wandb

        name = re.sub(r"[^A-Za-z0-9._-]", "-", self.run_name)
        artifact = wandb.Artifact(name, type="model", metadata={"step": step, "run": self.run_name})
        artifact.add_file(str(path), name=f"{path.parent.name}/{path.name}")  # as in the folder of the run
        for beside in ("tokenizer.json", "config.yaml"):
            if (self.folder / beside).is_file():
                artifact.add_file(str(self.folder / beside))
        self.experiment.log_artifact(artifact, aliases=["latest", f"step_{step}"])

    def finish(self, exit_code: int = 0) -> None:
        """Ends the W&B run; the next one in this process starts afresh. Does nothing if none was begun."""
        run, self._experiment = self._experiment, None
        if run is None:
            return
        folder = Path(run.dir).parent
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            rest = f"wandb sync {os.path.relpath(folder)} sends the rest"
            print(f"W&B has not taken everything within {self.finish_timeout:g} s; {rest}", file=sys.stderr)

    def abandon(self) -> None:
        """Kills W&B's own process after it has failed: this one would wait for it as it ends, for ever if it hangs."""
        from wandb.sdk import wandb_setup

        connection = wandb_setup.singleton()._connection
        if connection is not None and connection.owns_service:
            connection._proc._process.kill()  # pyright: ignore
        with suppress(Exception, SystemExit):  # of the connection that is broken now; the next run has another
            wandb_setup.teardown()


def chosen_mode(mode: str | None) -> str:
    """The mode that holds: what is asked for, WANDB_MODE, online with a key, or offline."""
    asked = mode or os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    known = {"dryrun": "offline", "run": "online"}.get(asked, asked)
    if known not in MODES:
        raise ValueError(f"logger.wandb.mode={asked}: expected one of {', '.join(MODES)}")
    return known


def _settings(finish_timeout: float) -> Any:
    import wandb

    times = {"init_timeout": INIT_SECONDS, "finish_timeout": finish_timeout, "finish_timeout_raises": True}
    return wandb.Settings(silent=True, console="off", **times)
