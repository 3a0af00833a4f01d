"""study=curves draws any runs, and compares where their curves end with paired errors."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analyze import analyze
from dissimilarity.inference.coverage import SEEDS
from dissimilarity.report.folders import read_folder
from dissimilarity.tables.seal import read_table
from launch.cli.compose import compose
from studies.curves.figures import figures
from tests.helpers.report_folders import SITES, STEPS, curve_row, write_run

MEASURES = ("cka", "mutual_knn", "mine", "rbf_cka")


def study(root: Path) -> Path:
    return analyze(
        compose(["study=curves", "models=[runs/*]", f"runs_dir={root}/runs", f"results_dir={root}"], "analyze")
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three runs: the second is farther than the first by 0.1 with a known error, and the third read other text."""
    root = tmp_path_factory.mktemp("curves")
    for seed in range(3):
        influence = [0.01 * (unit % 4) * (1 + seed) for unit in range(16)]
        same = {"probe": "other" if seed == 2 else "same", "influence": influence}
        same |= {"value": 0.9 - 0.1 * seed, "dissimilarity": 0.1 + 0.1 * seed}
        rows = [
            curve_row(step, site, site, measure=measure, **same)
            for step in STEPS
            for site in SITES
            for measure in MEASURES
        ]
        write_run(root / "runs" / f"s{seed}", rows, seed=seed)
    return root, study(root)


def test_a_figure_explains_the_interval_that_it_has(tmp_path: Path) -> None:
    """Fewer than five runs that differ in their seeds have a mean and no interval."""
    for seed in range(5):
        write_run(tmp_path / f"s{seed}", [curve_row(step, site, site) for step in STEPS for site in SITES], seed=seed)
    folders = [read_folder(tmp_path / f"s{seed}") for seed in range(5)]
    for count, is_there in ((3, False), (5, True)):
        (figure,) = figures(folders[:count]).values()
        assert any(SEEDS in text.get_text().replace("\n", " ") for text in figure.texts) == is_there


def test_differences_from_the_first_run_have_paired_errors(drawn: tuple[Path, Path]) -> None:
    _, folder = drawn
    table = read_table(folder / "table.parquet").to_pylist()
    rows = {(row["run"], row["measure"], row["site_a"]): row for row in table}
    assert len(table) == len(rows) == 3 * 4 * 2 and rows["s0", "cka", SITES[0]]["difference"] is None
    second = rows["s1", "cka", SITES[1]]
    influence = np.array([0.01 * (unit % 4) for unit in range(16)])  # of the difference
    stderr = np.sqrt(16 / 15 * np.square(influence - influence.mean()).sum())
    assert second["difference"] == pytest.approx(0.1)
    assert second["difference_stderr"] == pytest.approx(stderr, rel=1e-5)
    assert second["p"] == pytest.approx(2 * stats.t.sf(0.1 / stderr, 15), rel=1e-4)
    assert rows["s2", "cka", SITES[1]]["difference"] is None, "another text"
    with (folder / "table.csv").open() as file:
        assert [float(row["value"]) for row in csv.DictReader(file)] == [row["value"] for row in table]
    (line,) = [
        line for line in (folder / "summary.md").read_text().splitlines() if f"| s1 | init | cka | {SITES[1]}" in line
    ]
    value, null = line.split(" | ")[4:6]
    assert value.startswith("0.200 ±") and float(null) == pytest.approx(1 - 0.031234567, abs=1e-3), "on one scale"


def test_each_measure_has_a_panel_with_a_line_per_run_and_their_mean(drawn: tuple[Path, Path]) -> None:
    root, folder = drawn
    (figure,) = figures([read_folder(root / "runs" / f"s{seed}") for seed in range(3)]).values()
    titles = [panel.get_ylabel().splitlines()[0] for panel in figure.axes]
    assert titles == ["1 - CKA", "1 - mutual kNN", "dissimilarity by mine", "1 - RBF CKA"]
    lines = [np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].lines]
    assert lines == [pytest.approx([0.1 + 0.1 * seed] * len(STEPS)) for seed in (0, 1, 2, 1)]
    assert sorted(path.name for path in (folder / "figures").iterdir()) == ["curves_init.pdf", "curves_init.png"]


def test_runs_without_curves_cannot_be_drawn(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs" / "a")
    for name in ("curves.parquet", "curves.jsonl"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match="none of them has curves"):
        study(tmp_path)


def test_a_run_that_cannot_be_drawn_is_named_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        write_run(tmp_path / "runs" / name)
    for name in ("curves.parquet", "curves.jsonl"):
        (tmp_path / "runs" / "b" / name).unlink()
    (tmp_path / "runs" / "c" / "curves.jsonl").unlink()
    (tmp_path / "runs" / "c" / "curves.parquet").write_bytes(b"PAR1 no more")
    summary = (study(tmp_path) / "summary.md").read_text()
    assert "- b is left out: it has no curves" in summary and "- c is left out: " in summary
    assert "b is left out: it has no curves" in " ".join(capsys.readouterr().out.split())
