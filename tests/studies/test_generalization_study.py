"""study=generalization from nothing, on models of seconds; what it reads, and what it rejects."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from omegaconf import open_dict

from analyze import analyze
from launch.cli.compose import compose
from tests.helpers.tiny_run import forked_sweeps, tiny_overrides

SMALL = ["measures=fast", "study.sequences=24", "study.examples=1000", "study.stitched=12", "study.pairs=2"]
DATA = ["data.source.train=60", "data.source.val=40", "data.source.ood=30"]


def study(home: Path, name: str, *overrides: str, seeds: int = 2) -> Path:
    """Run the study over two kinds of tiny models fine-tuned from one start; return what it writes."""
    places = [f"runs_dir={home / 'runs'}", f"cache_dir={home / 'cache'}", f"results_dir={home / 'results'}"]
    cfg = compose(["study=generalization", "size=tiny", f"name={name}", *places, *SMALL, *overrides], "analyze")
    prefixes = ("width=", "depth=", "name=", "runs_dir=", "logger=", "track.")
    first = [override for override in tiny_overrides(home, trainer__max_steps=4) if not override.startswith(prefixes)]
    tune = ["task=classify", "data=question_formation", *DATA, "data.n_ctx=16", "data.batch_size=4", "schedule.every=4"]
    tune += ["probe.sequences=24"]
    with open_dict(cfg):
        cfg.study.sizes.tiny = {
            "width": 16,
            "depth": 2,
            "init_from": first,
            "finetune": [*tune, "trainer.max_steps=6", "trainer.accelerator=cpu", "trainer.precision=32-true"],
            "planted": {"one": ["data.source.counterexamples=0.0"], "other": ["data.source.counterexamples=0.5"]},
            "seeds_only": ["data.source.counterexamples=0.1"],
            "seeds": list(range(seeds)),
        }
    with pytest.MonkeyPatch.context() as patch:
        forked_sweeps(patch)
        return analyze(cfg)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generalization")


@pytest.fixture(scope="module")
def planted(home: Path) -> Path:
    return study(home, "planted")


@pytest.mark.slow
def test_it_trains_what_is_missing_and_leaves_a_table_figures_and_an_answer(home: Path, planted: Path) -> None:
    runs = sorted(path.parent.name for path in (home / "runs/generalization-tiny").glob("*/summary.json"))
    assert runs == ["gelu-w16-d2-s0", "one-s0", "one-s1", "other-s2", "other-s3"]
    rows = pq.read_table(planted / "table.parquet").to_pylist()
    steps = {row["step"] for row in rows}
    assert None in steps and 1 < len(steps) <= 6
    measures = {row["measure"] for row in rows}
    assert len(rows) == len(steps) * len(measures) * 6 * 2
    assert all(row["site_a"] == row["site_b"] for row in rows)
    summary = (planted / "summary.md").read_text()
    for words in ("The reference groups are", "barrier in loss", "l = 2", "How early in training?", "subject_clause"):
        assert words in summary
    figures = {path.stem for path in (planted / "figures").glob("*.png")}
    assert figures == {"layers", "stitched_elsewhere", "distances", "accuracies", "agreement", "steps"}
    notes = json.loads((planted / "provenance.json").read_text())
    assert set(notes["reference_groups"].values()) == {0, 1} and not notes["probe"]["include_padding"]


@pytest.mark.slow
def test_accuracies_are_those_of_the_trainings(home: Path, planted: Path) -> None:
    notes = json.loads((planted / "provenance.json").read_text())
    for label in notes["models"]:
        splits = json.loads((home / f"runs/generalization-tiny/{label}/summary.json").read_text())["splits"]
        for split, accuracy in splits.items():
            name = "in distribution" if split == "val" else split
            assert notes["accuracies"][name][label] == pytest.approx(accuracy)


@pytest.mark.slow
def test_models_that_exist_are_taken_with_the_groups_that_are_given(home: Path, planted: Path) -> None:
    uris = [f"runs/generalization-tiny/{name}" for name in ("one-s0", "other-s2", "one-s1", "other-s3")]
    quick = ["study.checkpoints=0", "study.points=null", "study.stitched=0", "study.ood=both_clauses"]
    groups = f"study.reference_groups={{a:[{uris[0]},{uris[2]}],b:[{uris[1]},{uris[3]}]}}"
    folder = study(home, "given", f"models=[{','.join(uris)}]", groups, *quick, "include_padding=true")
    notes = json.loads((folder / "provenance.json").read_text())
    assert notes["reference_groups"] == {"one-s0": 0, "other-s2": 1, "one-s1": 0, "other-s3": 1}
    assert notes["probe"]["include_padding"]
    summary = (folder / "summary.md").read_text()
    assert "padding included" in summary and "Identity stitching" not in summary
    # Nothing but in-distribution inputs is read for the distances: another truth leaves the table as it is.
    other = study(
        home, "other", f"models=[{','.join(uris)}]", *quick[:3], "study.ood=subject_clause", "include_padding=true"
    )
    first, second = (pq.read_table(results / "table.parquet")["dissimilarity"] for results in (folder, other))
    assert first.equals(second)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["models=[runs/a,runs/b,runs/c]"], r"expected 4 models or more, .*found 3; fine-tune more: python train.py"),
        (["study.case=some"], "study.case=some: expected planted, seeds_only or both"),
        (["size=huge"], "size=huge: expected one of small, medium, paper"),
        (
            ["size=paper"],
            "size=paper study.case=planted: no kinds are planted at this size; type study.case=seeds_only",
        ),
        (["models=[a,b,c,d]", "study.reference_groups={x:[a,b],y:[c,e]}"], "study.reference_groups: e is not among"),
        (
            ["models=[a,b,c,d]", "study.reference_groups={x:[a,b],y:[b,c]}"],
            "study.reference_groups: b is in two groups",
        ),
        (
            ["models=[a,b,c,d]", "study.reference_groups={x:[a,b,c],y:[d]}"],
            "two models or more each, found x of 3, y of 1",
        ),
        (["models=[a,b,c,d]", "study.share=0.7"], "study.share=0.7: expected a number above 0 and up to 0.5"),
    ],
)
def test_questions_that_cannot_be_answered_are_rejected(overrides: list[str], message: str, tmp_path: Path) -> None:
    places = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", f"results_dir={tmp_path / 'results'}"]
    with pytest.raises(ValueError, match=message):
        analyze(compose(["study=generalization", *places, *overrides], "analyze"))
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_models_without_labels_and_missing_splits_are_rejected(home: Path, planted: Path) -> None:
    def refused(message: str, names: tuple[str, ...], *overrides: str) -> None:
        uris = ",".join(f"runs/generalization-tiny/{name}" for name in names)
        with pytest.raises(ValueError, match=message):
            study(home, "refused", f"models=[{uris}]", *overrides)

    tuned: Any = ("one-s0", "one-s1", "other-s2", "other-s3")
    refused("gelu-w16-d2-s0 is not a classifier; .*task=classify", (*tuned, "gelu-w16-d2-s0"))
    refused("study.ood=far: expected a split out of distribution: subject_clause, both_clauses", tuned, "study.ood=far")
    refused(
        "data: expected the labels of the models, .*, found ",
        tuned,
        "data=heuristics",
        "data.n_ctx=16",
        "data.source.train=40",
    )
