"""Trainings whose figures nobody looks at."""

from collections.abc import Iterator

import pytest

from dissimilarity.tracking import tables


@pytest.fixture(scope="module")
def no_figures() -> Iterator[None]:
    """Draw nothing at the end of a training: it takes longer than the training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "draw_run", lambda folder, formats: [])
        yield
