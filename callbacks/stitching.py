"""The stitching tracker of a run: with its text and its references."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.interrupted import Interrupted
from callbacks.run import Run
from dissimilarity.lightning import StitchingTracker


class RunStitching(StitchingTracker):
    """A tracker of what it costs to stitch the model of a run into its references, and the reverse.

    Args:
        run: the run, which gives text and references.
        references, folder: as for ``StitchingTracker``.
        options: the other arguments of ``StitchingTracker``.

    Raises:
        ValueError: a reference has another tokenizer.
    """

    ends = (Interrupted,)

    def __init__(self, run: Run, references: Sequence[str], folder: str | Path, **options: Any) -> None:
        if run.references.alignments:
            raise ValueError(
                f"references: {', '.join(run.references.alignments)} has another tokenizer than this run, so no loss "
                "can be computed for stitches while training; leave it out, or type callbacks=default"
            )
        super().__init__(references, run.probe_tokens, folder, load=run.references.load, **options)
