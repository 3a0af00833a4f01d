"""The dissimilarity tracker of a run: on its probe set, with its references and padding."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.run import Run
from dissimilarity.lightning import DissimilarityTracker
from dissimilarity.measures.base.measure import Measure
from dissimilarity.probe.outliers import NO_CONTROL, Control
from dissimilarity.probe.probe_set import Pool


class RunTracker(DissimilarityTracker):
    """A tracker of how dissimilar the model of a run is to its references.

    Args:
        run: the run, which gives probe set, padding, references and tokens per step.
        references, measures, folder, sites, every, heatmap_every: as for ``DissimilarityTracker``.
        groups, budget, pool, precision, control, reference_groups: as for ``DissimilarityTracker``.
    """

    def __init__(
        self,
        run: Run,
        references: Sequence[str],
        measures: Mapping[str, Measure],
        folder: str | Path,
        *,
        sites: str | Sequence[str] = "blocks.*.resid_post",
        every: int = 50,
        heatmap_every: int = 250,
        groups: int = 16,
        budget: float = 0.03,
        pool: Pool = "none",
        precision: str | None = None,
        control: Control | Mapping[str, Any] = NO_CONTROL,
        reference_groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(
            references,
            measures,
            run.probe,
            folder,
            sites=sites,
            every=every,
            heatmap_every=heatmap_every,
            groups=groups,
            budget=budget,
            pool=pool,
            precision=precision,
            tokens_per_step=run.tokens_per_step,
            load=run.references.load,
            control=control,
            align=run.references.alignments.get,
            mask=run.mask,
            reference_groups=reference_groups,
        )

    def summary(self) -> dict[str, Any]:
        """Return the share of the time that tracking took and the group that the model drifted to."""
        return {"tracking_share": float(self.share), "drift": self.drift}
