"""References by label: what a reference is follows from its source."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dissimilarity import CKA, compare
from dissimilarity.lightning import StitchingTracker
from dissimilarity.tables.journal import Journal
from tests.instrument.tracking.test_tracker import LENGTH, SEQUENCES, Layered, fit, rows_of, tokens, tracker_for


def curves_of(folder: Path) -> dict[tuple[str, int, str], float]:
    """Return the values of CKA at equal depth by reference, step and site."""
    return {
        (row["reference"], row["step"], row["site_a"]): row["value"]
        for row in rows_of(folder)
        if row["measure"] == "cka" and row["site_a"] == row["site_b"]
    }


def test_a_label_does_not_decide_what_a_reference_is(tmp_path: Path) -> None:
    """The teacher is called as one of the model's own states, and those as each other and otherwise."""
    teacher = Layered(seed=5)
    references = {"init": teacher, "previous": "init", "start": "init", "before": "previous"}
    fit(tracker_for(tmp_path / "other", references, measures=[CKA()]), Layered())
    fit(tracker_for(tmp_path / "own", {"init": "init", "previous": "previous"}, measures=[CKA()]), Layered())
    other, same = curves_of(tmp_path / "other"), curves_of(tmp_path / "own")
    for (label, step, site), value in same.items():
        for name in {"init": ("start", "previous"), "previous": ("before",)}[label]:
            assert other[name, step, site] == value
    assert len(other) == 2 * 5 + 2 * len(same) - 2 * 4
    expected = compare(Layered(), teacher, tokens(0, SEQUENCES, LENGTH), "layers.*", [CKA()]).to_pylist()
    for row in expected:
        if row["site_a"] == row["site_b"]:
            assert other["init", 0, row["site_a"]] == pytest.approx(row["value"], abs=1e-6) and row["value"] < 0.5


@pytest.mark.parametrize("choices", [{"measures": CKA()}, {"measures": {"any": CKA()}}, {"references": "init"}])
def test_one_measure_and_one_reference_need_no_list(choices: dict[str, Any], tmp_path: Path) -> None:
    choices = {"references": ["init"], "measures": [CKA()], **choices}
    fit(tracker_for(tmp_path, **choices), Layered(), steps=1)
    assert {(row["reference"], row["measure"]) for row in rows_of(tmp_path)} == {("init", "cka")}


class Wrapped(Layered):
    """A module whose network has a name, as stitching with its own states needs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Layered()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.net(tokens)


def test_stitches_follow_the_source_too(tmp_path: Path) -> None:
    """There are none with the model itself at step 0, however it is called."""
    tracker = StitchingTracker(
        {"start": "init", "init": Layered(seed=5)}, lambda n: tokens(0, n, LENGTH), tmp_path, every=2
    )
    fit(tracker, Wrapped(), steps=2)
    labels = [(row["step"], row["reference"]) for row in Journal(tmp_path / "penalties.jsonl").read()]
    assert set(labels) == {(0, "init"), (2, "start"), (2, "init")}
