"""The number that a sweeper optimizes: any of summary.json, nested ones too, or the last value of a curve."""

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from launch.run.folder import read_json
from launch.run.optimized import optimized
from tests.helpers.tiny_run import in_process, tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("optimized")
    assert in_process(tiny(folder, trainer__max_steps=2)) == 0
    return folder / "runs" / "tiny"


def test_a_number_of_the_summary_and_the_last_of_a_curve(run: Path) -> None:
    summary = read_json(run / "summary.json")
    for key in ("val_loss", "bits_per_byte", "steps"):
        assert optimized(key, run, summary) == summary[key]
    records = pq.read_table(run / "curves.parquet").to_pylist()
    last = [r for r in records if (r["step"], r["reference"], r["measure"]) == (2, "init", "cka")]
    (expected,) = (r["dissimilarity"] for r in last if r["site_a"] == r["site_b"] == "blocks.0.resid_post")
    assert optimized("dissimilarity/init/cka/blocks.0.resid_post", run, summary) == pytest.approx(expected, rel=1e-12)


def test_a_name_that_the_run_lacks_is_answered_with_those_it_has(run: Path) -> None:
    with pytest.raises(ValueError, match=r"optimized_metric=loss: .*bits_per_byte, dissimilarity/init/cka/.*val_loss"):
        optimized("loss", run, read_json(run / "summary.json"))


def test_parts_of_a_summary_are_entered_by_dots_and_a_missing_value_is_no_number(run: Path) -> None:
    summary = {"splits": {"hans.entailment": 0.5}, "val_loss": None, "status": "diverged"}
    assert optimized("splits.hans.entailment", run, summary) == 0.5
    assert math.isnan(optimized("val_loss", run, summary))
