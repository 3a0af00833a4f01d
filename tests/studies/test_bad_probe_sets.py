"""Probe sets that say too little or nothing, through the commands: what the user reads, and what is measured anyway."""

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import train
from analyze import analyze
from launch.cli.compose import compose
from tests.helpers.tiny_run import tiny

KEYS = {"cka", "procrustes", "mutual_knn"}


def compared(folder: Path, sequences: int, broken: bool = False, **keys: Any) -> tuple[dict[str, dict[str, Any]], str]:
    """Compare two files of saved activations by study=compare, and return its rows by measure, and its summary."""
    g = torch.Generator().manual_seed(0)
    acts = [torch.randn(sequences, 6, 5, generator=g) for _ in "ab"]
    if broken:
        acts[0][1, 2, 3] = math.nan
    for name, samples in zip("ab", acts, strict=True):
        save_file({"s": samples}, folder / f"{name}.safetensors")
    models = ",".join(str(folder / f"{name}.safetensors") for name in "ab")
    overrides = [f"study.{key}={value}" for key, value in keys.items()]
    places = [f"results_dir={folder / 'results'}", f"cache_dir={folder / 'cache'}"]
    results = analyze(compose(["study=compare", f"models=[{models}]", *places, *overrides], "analyze"))
    rows = {row["measure"]: row for row in pq.read_table(results / "table.parquet").to_pylist()}
    assert rows.keys() == KEYS
    return rows, (results / "summary.md").read_text()


def test_three_sequences_have_no_value_of_cka_and_no_error_bars(tmp_path: Path) -> None:
    rows, summary = compared(tmp_path, 3, nulls=1)
    assert math.isnan(rows["cka"]["value"]) and "cka has 3 sequences and needs 4: pass more" in summary
    for measure in KEYS - {"cka"}:
        assert math.isfinite(rows[measure]["value"]) and math.isnan(rows[measure]["stderr"])
        assert f"{measure} has no standard error: it needs 4 sequences in 2 units and has 3: pass more" in summary


def test_a_nan_in_one_sequence_is_named(tmp_path: Path) -> None:
    rows, summary = compared(tmp_path, 8, broken=True, nulls=3)
    assert all(math.isnan(row["value"]) and math.isnan(row["p"]) for row in rows.values())
    assert "1 value at s is NaN or infinite, in sequence" in summary and "leave it out" in summary


def test_more_rearrangements_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nulls=7: 4 sequences can be put into 6 different circles; pass at most"):
        compared(tmp_path, 4, nulls=7)
    assert not (tmp_path / "results" / "compare" / "table.parquet").exists()
    rows, _ = compared(tmp_path, 4, nulls=6)
    assert all(row["p"] >= 1 / 7 for row in rows.values())


def test_more_units_than_sequences_can_make_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_units=50: 8 sequences make at most 4 units, .* leave n_units out"):
        compared(tmp_path, 8, n_units=50, nulls=3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"probe__sequences": 3}, "cka needs 4 sequences, and the probe set has 3: pass more"),
        (
            {"probe__sequences": 4, "callbacks__tracker__nulls": 7},
            "nulls=7: 4 sequences can be put into 6 different circles; pass at most nulls=6, or more sequences",
        ),
    ],
)
def test_a_training_that_could_not_be_measured_does_not_begin(
    keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train.train(tiny(tmp_path, **keys))
    assert not list(tmp_path.glob("runs/*/checkpoints/*"))
