"""study=asymmetry from nothing, on models of seconds."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from omegaconf import open_dict

from analyze import analyze
from dissimilarity.inference.coverage import SEEDS
from launch.cli.compose import compose
from tests.helpers.intervals import sentences_in
from tests.helpers.tiny_run import forked_sweeps, tiny_overrides

pytestmark = pytest.mark.slow


def study(home: Path, results: Path, *overrides: str) -> Path:
    """Run the study of two families at one width and depth, two seeds each; return what it writes."""
    cfg = compose(
        [
            "study=asymmetry",
            "size=tiny",
            f"runs_dir={home / 'runs'}",
            f"cache_dir={home / 'cache'}",
            f"results_dir={results}",
            "study.checkpoints=2",
            "study.fit_sequences=12",
            "study.sequences=4",
            "study.length=16",
            "study.others=[relu]",
            *overrides,
        ],
        "analyze",
    )
    prefixes = ("width=", "depth=", "name=", "runs_dir=", "logger=", "track.")
    train = [override for override in tiny_overrides(home, trainer__max_steps=4) if not override.startswith(prefixes)]
    with open_dict(cfg):
        cfg.study.sizes.tiny = {
            "widths": [16],
            "depths": [2],
            "seeds": [0, 1],
            "narrow": 8,
            "stitch_steps": 2,
            "train": train,
        }
    with pytest.MonkeyPatch.context() as patch:
        forked_sweeps(patch)
        return analyze(cfg)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folder of the runs and that of the results."""
    home = tmp_path_factory.mktemp("asymmetry")
    return home, study(home, home / "results")


def test_it_trains_what_is_missing_and_leaves_a_table_figures_and_a_verdict(whole: tuple[Path, Path]) -> None:
    home, folder = whole
    runs = sorted(path.name for path in (home / "runs/asymmetry-tiny").iterdir() if (path / "summary.json").exists())
    families = [f"{family}-w16-d2-s{seed}" for family in ("gelu", "relu", "solu") for seed in (0, 1)]
    orders = [f"{family}-w16-d2-s0-o1" for family in ("gelu", "solu")]
    assert runs == sorted([*families, *orders, "gelu-w8-d2-s0", "gelu-w8-d2-s1"])
    summary = (folder / "summary.md").read_text()
    assert sentences_in(summary) == [SEEDS]
    for words in ("# Does stitching solu into gelu cost more", "| A | sibling |", "| C | independent |", "## Capacity"):
        assert words in summary
    assert len(list((folder / "figures").glob("*.png"))) == 4


def test_its_table_has_both_directions_fits_points_and_baselines(whole: tuple[Path, Path]) -> None:
    rows = pq.read_table(whole[1] / "table.parquet").to_pylist()
    kinds = {(row["family_front"], row["family_back"], row["fit"]) for row in rows if row["last"]}
    for pair in (("solu", "gelu"), ("gelu", "solu"), ("solu", "solu"), ("gelu", "gelu")):
        assert {(*pair, fit) for fit in ("direct", "task", "paper")} <= kinds
    assert {"null_random", "null_shuffled"} <= {row["fit"] for row in rows}
    assert {row["kinship"] for row in rows} >= {"self", "sibling", "independent"}
    assert len({row["step"] for row in rows if row["fit"] == "direct"}) == 2
    for row in rows:
        assert row["penalty"] == pytest.approx(row["loss_stitched"] - row["loss_back"], abs=1e-6)
        if row["kind"] == "identity" and row["kinship"] == "self" and row["site"] == row["back_site"]:
            assert row["penalty"] == 0


def test_started_again_it_measures_nothing_twice(
    whole: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home, folder = whole
    before, journal = (folder / "summary.md").read_text(), (folder / "rows.jsonl").read_text()
    monkeypatch.setattr("studies.asymmetry.stitches.direct_penalties", None)
    study(home, home / "results")
    assert (folder / "summary.md").read_text() == before and (folder / "rows.jsonl").read_text() == journal
    assert "to train first" not in capfd.readouterr().err


def test_runs_that_exist_can_be_given(whole: tuple[Path, Path], tmp_path: Path) -> None:
    home, _ = whole
    names = ",".join(f"runs/asymmetry-tiny/{family}-w16-d2-s{seed}" for family in ("solu", "gelu") for seed in (0, 1))
    folder = study(home, tmp_path, f"models=[{names}]")
    notes = json.loads((folder / "provenance.json").read_text())
    assert len(notes["models"]) == 4
