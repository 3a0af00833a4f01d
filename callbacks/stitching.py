"""The stitching tracker of a run: with its text and its references."""

from collections.abc import Sequence
from pathlib import Path

from callbacks.run import Run
from dissimilarity.lightning import StitchingTracker
from dissimilarity.stitching.maps import Kind


class RunStitching(StitchingTracker):
    """A tracker of what it costs to stitch the model of a run into its references, and the reverse.

    Args:
        run: the run, which gives text and references.
        references, folder, sites, sequences, every: as for ``StitchingTracker``.
        task_at, task_steps, kind, budget: as for ``StitchingTracker``.

    Raises:
        ValueError: a reference has another tokenizer.
    """

    def __init__(
        self,
        run: Run,
        references: Sequence[str],
        folder: str | Path,
        sites: str | Sequence[str] = "blocks.*.resid_post",
        sequences: int = 64,
        every: int = 400,
        task_at: Sequence[int] = (),
        task_steps: int = 200,
        kind: Kind = "affine",
        budget: float = 0.015,
    ) -> None:
        if run.references.alignments:
            raise ValueError(
                f"references: {', '.join(run.references.alignments)} has another tokenizer than this run, so no loss "
                "can be computed for stitches while training; leave it out, or type callbacks=default"
            )
        super().__init__(
            references,
            run.probe_tokens,
            folder,
            sites=sites,
            sequences=sequences,
            every=every,
            task_at=task_at,
            task_steps=task_steps,
            kind=kind,
            budget=budget,
            load=run.references.load,
        )
