"""The dissimilarity tracker of a run: on its probe set, with its references and padding."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.interrupted import Interrupted
from callbacks.run import Run
from dissimilarity.lightning import DissimilarityTracker
from dissimilarity.measures.base.measure import Measure


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

    def summary(self) -> dict[str, Any]:
        """Return the share of the time that tracking took and the group that the model drifted to."""
        return {"tracking_share": float(self.share), "drift": self.drift}
