"""The dissimilarity tracker of a run: on its probe set, with its references and padding."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytorch_lightning as pl

from callbacks.checkpoints import save_now
from callbacks.interrupted import Interrupted
from callbacks.run import Run
from dissimilarity.inference.changes import moves
from dissimilarity.lightning import DissimilarityTracker
from dissimilarity.measures.base.measure import Measure
from dissimilarity.tables.curves import ALERTS, read_curves
from dissimilarity.tables.final import final_values
from dissimilarity.tables.journal import Journal
from dissimilarity.tracking.logger_keys import site_key


class RunTracker(DissimilarityTracker):
    """A tracker of how dissimilar the model of a run is to its references.

    Args:
        run: the run, which gives probe set, padding, references and tokens per step.
        references, measures, folder: as for ``DissimilarityTracker``.
        options: the other arguments of ``DissimilarityTracker``.
    """

    ends = (Interrupted,)

    def __init__(
        self, run: Run, references: Sequence[str], measures: Mapping[str, Measure], folder: str | Path, **options: Any
    ) -> None:
        super().__init__(
            references,
            measures,
            run.probe,
            folder,
            tokens_per_step=run.tokens_per_step,
            load=run.references.load,
            align=run.references.alignments.get,
            mask=run.mask,
            **options,
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Complete the last tick once the step is saved with the tables that a continuation needs."""
        save_now(trainer)
        super().on_train_end(trainer, pl_module)

    def summary(self) -> dict[str, Any]:
        """Return the share of the time that tracking took, the group that the model drifted to, its curves, and alerts.

        `final` has the last value of each curve. `moves` has, by reference, measure and site, the first step at which
        the curve differs from its first tick.
        """
        numbers = {"tracking_share": float(self.share), "drift": self.drift, "final": [], "moves": {}}
        with suppress(ValueError):  # the curves cannot be read, and a warning said so when they were folded
            curves = read_curves(self.folder)
            numbers |= {"final": final_values(curves), "moves": _moves(curves)}
        return numbers | {"alerts": self._alerts()}

    def _alerts(self) -> list[str]:
        with suppress(ValueError, TypeError):  # the journal is damaged, and the next start says so
            return [f"step {row['step']:,}: {row['text']}" for row in Journal(self.folder / ALERTS).read()]
        return []


def _moves(curves: pa.Table) -> dict[str, dict[str, dict[str, int | None]]]:
    entries: dict[str, dict[str, dict[str, int | None]]] = {}
    for (reference, measure, site_a, site_b), step in moves(curves).items():
        entries.setdefault(reference, {}).setdefault(measure, {})[site_key(site_a, site_b)] = step
    return entries
