"""study=report shows any set of runs; globs in models= stand for what matches."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

import settings
from analyze import analyze
from dissimilarity.report.page import FILE
from dissimilarity.tables.seal import read_table
from launch.cli.compose import compose
from tests.helpers.report_folders import Page, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 2, 10):
        write_run(folder / f"gelu-s{seed}", seed=seed)
    write_run(folder / "other", width=32)
    (folder / "gelu-notes").mkdir()
    (folder / "gelu-page.html").touch()
    (folder / "gelu.safetensors").touch()
    return folder


def models(runs: Path, *uris: str) -> list[str]:
    return settings.models_of(OmegaConf.create({"models": list(uris), "sizes": None, "runs_dir": str(runs)}))


def test_globs_stand_for_runs_and_files_in_the_order_of_their_numbers(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = ["runs/gelu-s0", "runs/gelu-s2", "runs/gelu-s10"]
    assert models(runs, "runs/gelu-s*") == seeds
    assert set(models(runs, "runs/other", "runs/*")) == {"runs/other", "runs/gelu.safetensors", *seeds}
    assert models(runs, "runs/other", "runs/*")[0] == "runs/other" and len(models(runs, "runs/*", "runs/*")) == 5
    assert models(runs, "runs/gelu-s[02]@4") == ["runs/gelu-s0@4", "runs/gelu-s2@4"]
    assert models(runs, "untrained:runs/gelu-s?") == ["untrained:runs/gelu-s0", "untrained:runs/gelu-s2"]
    assert models(runs, f"{runs}/oth*", "hf:a/b*") == [f"{runs}/other", "hf:a/b*"]
    monkeypatch.chdir(runs)
    assert models(runs, "oth*") == ["other"]
    (runs / "other" / "config.yaml").rename(runs / "config.yaml")
    assert models(runs, "oth*") == ["other"]  # it still has curves
    (runs / "config.yaml").rename(runs / "other" / "config.yaml")
    with pytest.raises(ValueError, match="no run matches"):
        models(runs, "runs/nothing*")


def test_the_study_shows_all_runs(
    runs: Path, tmp_path: Path, no_refresh: object, capsys: pytest.CaptureFixture
) -> None:
    folders = [f"runs_dir={runs}", f"results_dir={tmp_path}"]
    folder = analyze(compose(["study=report", "models=[runs/gelu-s*,runs/other]", *folders], "analyze"))
    page = Page((folder / FILE).read_text())
    assert page.data["page"]["runs"] == ["gelu-s0", "gelu-s2", "gelu-s10", "other"]
    assert page.data["page"]["groups"] == ["gelu", "gelu", "gelu", "other"]
    rows = read_table(folder / "table.parquet").to_pylist()
    assert [(row["run"], row["step"], row["loss"]) for row in rows][:3] == [("gelu-s0", 8, 4.5)] * 2 + [
        ("gelu-s2", 8, 4.5)
    ]
    assert "| other | finished | 8 | 4.500 | 2 |" in (folder / "summary.md").read_text()
    assert "gelu-s10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "text"), [("[]", "expected runs to show"), ("[runs/nope]", "runs/nope is no folder")]
)
def test_it_says_what_is_missing(runs: Path, tmp_path: Path, typed: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        analyze(compose(["study=report", f"models={typed}", f"runs_dir={runs}", f"results_dir={tmp_path}"], "analyze"))
    assert not list(tmp_path.iterdir())
