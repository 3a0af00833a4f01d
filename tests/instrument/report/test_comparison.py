"""The page of a comparison draws its table layer by layer, whoever wrote it."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dissimilarity.report.subtracted import subtracted
from tests.helpers.report_folders import SITES, curve_row, page_of


@pytest.mark.parametrize("with_models", [True, False])
def test_values_are_those_of_the_table(tmp_path: Path, with_models: bool) -> None:
    folder, models = tmp_path / "compare", (("x", "y"), ("x", "z")) if with_models else (("x", "y"),)
    folder.mkdir()
    rows: list[dict[str, Any]] = [
        {**curve_row(0, a, b), "dissimilarity": 0.1 * index + 0.01 * number, "null": 0.2, "calibrated": 0.3}
        | ({"model_a": first, "model_b": second} if with_models else {})
        for number, (first, second) in enumerate(models)
        for index, (a, b) in enumerate((a, b) for a in SITES for b in SITES)
    ]
    for row in rows:
        row["value"] = 1 - row["dissimilarity"]
        del row["step"], row["reference"]
    pq.write_table(pa.Table.from_pylist(rows), folder / "table.parquet")
    (folder / "summary.json").write_text(json.dumps({"a": "x", "b": "y", "verdict": "they differ <b>"}))
    (folder / "provenance.json").write_text(json.dumps({"command": "dissimilarity compare x y"}))
    page = page_of(folder)
    assert page.data["page"]["kind"] == "comparison"
    assert page.data["page"]["references"] == [f"{first} and {second}" for first, second in models]
    for number in range(len(models)):
        (panel,) = page.data[f"panel-{number}-0"]["runs"]
        assert [curve["d"] for curve in panel["curves"]] == [[0.01 * number], [round(0.3 + 0.01 * number, 5)]]
        assert panel["curves"][0]["n"] == [0.8] and panel["curves"][0]["h"][0] > 0
        assert panel["maps"]["d"] == [[round(0.1 * index + 0.01 * number, 5) for index in range(4)]]
    assert "they differ <b>" in page.text and "dissimilarity compare x y" in page.text


def test_a_table_of_several_rows_per_pair_of_sites_is_no_comparison(tmp_path: Path) -> None:
    """As that of study=curves, which has a row per run and reference."""
    rows = [curve_row(8, site, site, reference=name) | {"run": name} for name in ("a", "b") for site in SITES]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    (tmp_path / "summary.md").write_text("# Curves\n\nWhere they end.\n")
    page = page_of(tmp_path)
    assert page.data["page"]["kind"] != "comparison" and "Layer by layer" not in page.text
    assert "Where they end." in page.text


def test_pairs_under_another_control_or_at_an_earlier_step_are_further_ones(tmp_path: Path) -> None:
    """study=scaling has both controls in one table, study=generalization several steps."""
    rows = [
        {**curve_row(0, SITES[0], SITES[0]), "model_a": a, "model_b": b, "dissimilarity": number / 10, **more}
        for number, (a, b, more) in enumerate(
            [
                ("x", "x", {"control": "as it is", "step": 20}),
                ("x", "y", {"control": "as it is", "step": 10}),
                ("x", "y", {"control": "as it is", "step": 20}),
                ("x", "y", {"control": "outlier control", "step": 20}),
            ]
        )
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    (tmp_path / "summary.md").write_text("# Which?\n\nThe answer.\n\n## Models\n\nMany.\n")
    page = page_of(tmp_path)
    names = ["x and y (step 10)", "x and y", "x and y (outlier control)", "x and x"]
    assert page.data["page"]["references"] == names
    for number, expected in enumerate([0.1, 0.2, 0.3, 0.0]):
        (panel,) = page.data[f"panel-{number}-0"]["runs"]
        assert [curve["d"] for curve in panel["curves"]] == [[expected]]
    order = [page.text.index(text) for text in ("The answer.", "Layer by layer", "Many.")]
    assert order == sorted(order)


def test_differences_are_powers_of_ten_only_where_they_are_small_or_large() -> None:
    site = {"site_a": "embed", "site_b": "embed", "noise": 2.04e-7, "cosine": 0.5}
    rows = [{**site, "relative_error": 1.29, "largest": 48.2}, {**site, "relative_error": 0.0123, "largest": 12345.0}]
    html = subtracted({"rows": rows[:1], "outputs": {"kl": 1.04, "kl_high": 14.4, "largest": 0.0}})
    words = ["embed", "1.3", "2.0e-07", "0.500000", "48"]
    assert re.findall(r"<td>(.*?)</td>", html) == words
    assert "KL divergence 1.0 nats, its 99.9th percentile 14, largest difference of two logits 0." in html
    words = ["embed", "0.012", "2.0e-07", "0.500000", "1.2e+04"]
    assert re.findall(r"<td>(.*?)</td>", subtracted({"rows": rows[1:]})) == words
