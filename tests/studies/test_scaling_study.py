"""study=scaling and study=dynamics from nothing, on models of seconds; and on models that others made."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import open_dict
from tokenizers import Tokenizer

import settings
from analyze import analyze
from dissimilarity.capture import offloaded as offloading
from launch.cli.compose import compose
from launch.cli.validate import validate
from tests.helpers.tiny_run import forked_sweeps, tiny_overrides

pytestmark = pytest.mark.slow

SMALL = ["study.sequences=8", "study.length=16", "study.n_units=4", "measures=fast"]


def study(home: Path, results: Path, name: str, size: dict[str, Any], *overrides: str) -> Path:
    """Run a study whose models are trained as `size` says; return what it writes."""
    places = [f"runs_dir={home / 'runs'}", f"cache_dir={home / 'cache'}", f"results_dir={results}"]
    cfg = compose([f"study={name}", "size=tiny", *places, *SMALL, *overrides], "analyze")
    prefixes = ("width=", "depth=", "name=", "runs_dir=", "logger=", "track.")
    train = [override for override in tiny_overrides(home) if not override.startswith(prefixes)]
    with open_dict(cfg):
        cfg.study.sizes.tiny = {**size, "train": train}
    with pytest.MonkeyPatch.context() as patch:
        if name == "scaling":  # the sweep of study=dynamics is a command of its own, as for users
            forked_sweeps(patch)
        return analyze(cfg)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scaling")


@pytest.fixture(scope="module")
def scaled(home: Path) -> Path:
    return study(home, home / "results", "scaling", {"shapes": [[8, 1], [16, 3]], "seeds": [0, 1]})


@pytest.fixture(scope="module")
def moved(home: Path) -> Path:
    return study(home, home / "results", "dynamics", {"width": 16, "depth": 3, "seeds": [0, 1]})


def test_scaling_trains_what_is_missing_and_leaves_a_table_figures_and_an_answer(home: Path, scaled: Path) -> None:
    runs = sorted(path.parent.name for path in (home / "runs/scaling-tiny").glob("*/summary.json"))
    assert runs == ["gelu-w16-d3-s0", "gelu-w16-d3-s1", "gelu-w8-d1-s0", "gelu-w8-d1-s1"]
    rows = pq.read_table(scaled / "table.parquet").to_pylist()
    # Each two and each with itself, by the product of their depths, under both controls.
    assert len(rows) == 2 * (3 * 1 * 1 + 4 * 1 * 3 + 3 * 3 * 3)
    assert {row["control"] for row in rows} == {"as it is", "outlier control"}
    for row in rows:
        if row["model_a"] == row["model_b"] and row["site_a"] == row["site_b"]:
            assert row["value"] == pytest.approx(1, abs=1e-6)
    summary = (scaled / "summary.md").read_text()
    for words in ("# How differently", "the sizes that differ most are w8 d1 and w16 d3", "## Outlier control"):
        assert words in summary
    figures = {path.stem for path in (scaled / "figures").glob("*.png")}
    assert figures == {"heatmaps_cka", "heatmaps_cka_outlier_control", "sizes", "regions", "losses", "models"}
    notes = json.loads((scaled / "provenance.json").read_text())
    assert len(notes["models"]) == 4 and all(4 < loss < 8 for loss in notes["losses"].values())


def test_started_again_scaling_trains_nothing(home: Path, scaled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (scaled / "summary.md").read_text()
    study(home, home / "results", "scaling", {"shapes": [[8, 1], [16, 3]], "seeds": [0, 1]})
    assert (scaled / "summary.md").read_text() == before
    assert "to train first" not in capfd.readouterr().err


def test_dynamics_compares_every_two_checkpoints_of_two_runs(home: Path, moved: Path) -> None:
    rows = pq.read_table(moved / "table.parquet").to_pylist()
    steps = sorted({int(row["model_a"].split("@")[1]) for row in rows} | {11})
    assert steps == [0, 1, 2, 4, 8, 11]
    count = len(steps)
    assert len(rows) == 3 * (2 * count * (count - 1) // 2 + count**2)
    assert all(row["site_a"] == row["site_b"] for row in rows)
    summary = (moved / "summary.md").read_text()
    for words in ("# When does each layer", "gelu-w16-d3-s0", "2 seeds: no interval"):
        assert words in summary
    assert {path.stem for path in (moved / "figures").glob("*.pdf")} == {"steps_cka", "arrival"}
    notes = json.loads((moved / "provenance.json").read_text())
    assert len(notes["losses"]["gelu-w16-d3-s0"]) == count and len(notes["models"]) == 2 * count


def test_dynamics_takes_one_run_and_fewer_checkpoints(home: Path, moved: Path, tmp_path: Path) -> None:
    run = "models=[runs/dynamics-tiny/gelu-w16-d3-s0]"
    places = [f"runs_dir={home / 'runs'}", f"cache_dir={home / 'cache'}", f"results_dir={tmp_path}"]
    folder = analyze(compose(["study=dynamics", *places, *SMALL, run, "study.checkpoints=4"], "analyze"))
    rows = pq.read_table(folder / "table.parquet").to_pylist()
    assert len(rows) == 3 * 4 * 3 // 2
    assert "closer than another seed:" not in (folder / "summary.md").read_text()


def published(folder: Path, home: Path, layers: int, width: int, seed: int) -> str:
    """Write a GPT-NeoX folder with random weights and the tokenizer of the runs."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=300,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=32,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    Tokenizer.from_file(str(next(home.glob("runs/*/*/tokenizer.json")))).save(str(folder / "tokenizer.json"))
    return f"hf:{folder}"


def test_scaling_accepts_existing_models(home: Path, scaled: Path, tmp_path: Path) -> None:
    uris = [
        published(tmp_path / f"neox-{layers}-{width}", home, layers, width, 0)
        for layers, width in ((2, 16), (4, 16), (4, 32))
    ]
    ours = [item for item in tiny_overrides(home) if item.startswith("data") and "tokenizer" not in item]
    analysis = [
        override for override in ours if override.split("=")[0] in ("data", "data.source.paths", "data.cache_dir")
    ]
    places = [f"runs_dir={home / 'runs'}", f"cache_dir={home / 'cache'}", f"results_dir={tmp_path / 'results'}"]
    folder = analyze(compose(["study=scaling", *places, *SMALL, *analysis, f"models=[{','.join(uris)}]"], "analyze"))
    summary = (folder / "summary.md").read_text()
    assert "There is one model per size" in summary and "| w32 d4 | GPTNeoXForCausalLM | 32 | 4 |" in summary
    rows = pq.read_table(folder / "table.parquet").to_pylist()
    assert {(row["model_a"], row["model_b"]) for row in rows} >= {("neox-2-16", "neox-4-32")}
    notes = json.loads((folder / "provenance.json").read_text())

    attach = offloading.Offloaded._attach
    again = ["study.block_by_block=true", "name=passed", f"models=[{','.join(uris)}]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offloading, "RESIDENT", 64)
        opened: list[Any] = []
        patch.setattr(offloading.Offloaded, "_attach", lambda weights, model: opened.append(attach(weights, model)))
        passed = analyze(compose(["study=scaling", *places, *SMALL, *analysis, *again], "analyze"))
    assert len(opened) == 4 * 3  # for its names, and under each control, where one also drops the largest norms
    for row, expected in zip(pq.read_table(passed / "table.parquet").to_pylist(), rows, strict=True):
        for column in ("control", "measure", "model_a", "model_b", "site_a", "site_b"):
            assert row[column] == expected[column]
        assert row["value"] == pytest.approx(expected["value"], abs=1e-5)
    losses = json.loads((passed / "provenance.json").read_text())["losses"]
    assert losses == pytest.approx(notes["losses"], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("scaling", ["models=[runs/a]"], "expected two models or more of different size, found 1"),
        ("scaling", ["size=huge"], "size=huge: expected one of small, medium, paper"),
        ("dynamics", ["models=[runs/a,runs/a]"], "runs/a is listed twice"),
        ("dynamics", ["study.primary_measure=rsa"], "study.primary_measure=rsa: expected one of .*: cka, procrustes"),
        ("dynamics", ["models=[runs/a@3]"], "this study takes whole runs"),
        ("dynamics", ["models=[runs/gone]"], "there is no run .*gone"),
        ("dynamics", ["study.checkpoints=2"], "expected a whole number, 3 or more"),
    ],
)
def test_questions_that_cannot_be_answered_are_rejected(
    name: str, overrides: list[str], message: str, tmp_path: Path
) -> None:
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", f"results_dir={tmp_path / 'results'}"]
    with pytest.raises(ValueError, match=message):
        analyze(compose([f"study={name}", *places, *overrides], "analyze"))
    assert not (tmp_path / "results").exists()


def test_runs_of_different_depth_have_no_dynamics_in_common(home: Path, scaled: Path, tmp_path: Path) -> None:
    runs = "models=[runs/scaling-tiny/gelu-w8-d1-s0,runs/scaling-tiny/gelu-w16-d3-s0]"
    places = [f"runs_dir={home / 'runs'}", f"cache_dir={home / 'cache'}", f"results_dir={tmp_path}"]
    with pytest.raises(ValueError, match="expected runs of the same layers, found 1 and 3"):
        analyze(compose(["study=dynamics", *places, *SMALL, runs], "analyze"))


def test_a_published_family_is_named_with_its_sizes() -> None:
    cfg = compose(["models=pythia", "sizes=[70m,160m,1.4b]"], "analyze")
    validate(cfg, "analyze")
    names = [f"hf:EleutherAI/pythia-{size}" for size in ("70m", "160m", "1.4b")]
    assert settings.models_of(cfg) == names
    for overrides, message in (
        (["models=pythia"], "sizes=null: expected sizes of models=pythia"),
        (["models=pythia", "sizes=[71m]"], r"sizes=\[71m\]: expected sizes of models=pythia, out of 14m"),
        (["models=[runs/a]", "sizes=[70m]"], "sizes are of a published family"),
        (["models=runs/a"], r"models=runs/a: expected a list, such as models=\[runs/a\]"),
    ):
        with pytest.raises(ValueError, match=message):
            validate(compose(overrides, "analyze"), "analyze")
