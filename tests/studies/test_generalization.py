"""study=generalization on tables whose answer is known: numbers, summary and every figure."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial.distance import pdist, squareform

from dissimilarity.inference.coverage import FINE_TUNINGS, PAIRS
from studies.generalization.figures import figures
from studies.generalization.numbers import ALL, BARRIERS, Findings, findings, over_layers
from studies.generalization.text import answer, summary, terminal_tables
from studies.generalization.truth import truth_of
from tests.helpers.intervals import check_figures, sentences_in, sentences_of

LAYERS = 4
NOTES = {"probe": {"sequences": 64, "include_padding": False}}


def table(models: int, gaps: list[float], seed: int) -> pa.Table:
    """Return a table of two kinds of model, half and half, `gaps` standard deviations apart at each layer."""
    rng, rows = np.random.default_rng(seed), []
    labels = [f"m{index}" for index in range(models)]
    for measure in ("cka", "procrustes"):
        for layer, gap in enumerate(gaps):
            points = rng.standard_normal((models, 6))
            points[: models // 2, 0] += gap
            far = squareform(pdist(points)) * 0.02 * (layer + 1)
            rows += [
                {"model_a": a, "model_b": b, "measure": measure, "dissimilarity": far[i, j], "layer": layer}
                for i, a in enumerate(labels)
                for j, b in enumerate(labels)
                if i < j
            ]
    columns: dict[str, list[Any]] = {
        key: [row[key] for row in rows] for key in ("model_a", "model_b", "measure", "dissimilarity")
    }
    sites = [f"blocks.{row['layer']}.resid_post" for row in rows]
    return pa.table({**columns, "site_a": sites, "site_b": sites})


def planted(gaps: list[float], models: int = 12, with_groups: bool = True, seed: int = 0, **options: Any) -> Findings:
    rng = np.random.default_rng(seed)
    labels, first = [f"m{index}" for index in range(models)], np.arange(models) < models // 2
    gap = 0.0 if max(gaps) == 0 else 0.6
    accuracies = {
        "in distribution": 0.97 + 0.005 * rng.standard_normal(models),
        "lexical_overlap.entailment": 0.95 + 0.02 * rng.standard_normal(models),
        "lexical_overlap.non_entailment": 0.2 + gap * first + 0.05 * rng.random(models),
    }
    groups = {"disambiguated": labels[: models // 2], "ambiguous": labels[models // 2 :]} if with_groups else {}
    truth = truth_of(labels, accuracies, None, groups, options.get("share"))
    kinds = [(a, b) for a in truth.names for b in truth.names]
    fall = np.array([0, 0, 0.02, 0.3, 0.1])
    stitched = {
        split: {(a, b): 0.95 - (a != b) * fall - 0.02 * rng.random((8, LAYERS + 1)) for a, b in kinds}
        for split in accuracies
    }
    points = np.concatenate([rng.normal(9 * (gap > 0), 1, (models // 2, 3)), rng.standard_normal((models // 2, 3))])
    barriers = {name: squareform(pdist(points)) for name in BARRIERS}
    late = 2 * max(gaps)
    earlier = {step: table(models, [0, 0, *[late if step > 8 else 0] * 2], seed + step) for step in (0, 8, 64)}
    return findings(labels, table(models, gaps, seed), barriers, earlier, accuracies, truth, stitched, ("cka", "all"))


@pytest.fixture(scope="module")
def apart() -> Findings:
    return planted([0, 0, 9, 12])


@pytest.fixture(scope="module")
def alike() -> Findings:
    return planted([0, 0, 0, 0], with_groups=False)


def test_planted_groups_are_found_and_the_layer_where_they_part(apart: Findings) -> None:
    assert apart.truth.split == "lexical_overlap.non_entailment" and apart.truth.origin == "given"
    assert set(apart.successful()) == {"cka", "procrustes", *BARRIERS}
    for criterion in apart.criteria:
        scores = apart.scores[criterion, ALL]
        assert scores.clustering.count == 2 and scores.agreement["ari"].value == 1 and scores.agreement["auc"].p <= 0.01
    for measure in apart.measures:
        assert apart.parting[measure].first == 2
        assert apart.scores[measure, "blocks.0.resid_post"].clustering.count == 1
        assert not apart.by_step[0][measure].successful and apart.by_step[64][measure].successful
    text = answer(apart)
    for words in (
        "The reference groups are disambiguated and ambiguous (given)",
        "By the primary measure, cka over all layers, there are 2 clusters",
        "From in-distribution inputs alone, the groups are found by",
        "By cka the groups part from blocks.2.resid_post on (95% interval blocks.",
        "found from step 64 on",
    ):
        assert words in text


def test_models_of_one_kind_form_no_clusters_and_the_summary_says_so(alike: Findings) -> None:
    assert alike.successful() == [] and all(
        alike.scores[criterion, ALL].clustering.count == 1 for criterion in alike.criteria
    )
    assert "**There are no clusters**" in answer(alike)
    assert "the accuracies form no clusters" in answer(alike)
    assert "are found by" not in answer(alike)


def test_clusters_that_are_not_the_reference_groups_are_reported_as_such() -> None:
    result = planted([0, 0, 9, 12], share=0.25)
    other = np.array([0, 1] * 6)
    truth = truth_of(
        result.models,
        {"val": other * 0.0, "ood": other * 0.5},
        None,
        {"a": result.models[::2], "b": result.models[1::2]},
        None,
    )
    barriers = {name: result.over_all[name] for name in BARRIERS}
    mixed = findings(
        result.models,
        table(12, [0, 0, 9, 12], 0),
        barriers,
        {},
        {"val": other, "ood": other},
        truth,
        {},
        ("procrustes", "blocks.3.resid_post"),
    )
    assert mixed.measures == ["procrustes", "cka"]
    assert "By the primary measure, procrustes at blocks.3.resid_post, there are 2 clusters" in answer(mixed)
    assert mixed.successful() == [] and "cannot be told from chance**" in answer(mixed)


@pytest.mark.parametrize("name", ["apart", "alike"])
def test_the_summary_and_every_figure_are_made(name: str, request: pytest.FixtureRequest) -> None:
    findings = request.getfixturevalue(name)
    text = summary(findings, NOTES)
    assert sentences_in(text) == [FINE_TUNINGS]
    for words in (
        "## The models",
        "## From which layer?",
        "## How early in training?",
        "## Identity stitching",
        "padding ignored",
    ):
        assert words in text
    assert "nan" not in text
    drawn = figures(findings)
    check_figures(drawn.values())
    assert sentences_of(drawn["agreement"]) == [FINE_TUNINGS] and sentences_of(drawn["layers"]) == [PAIRS]
    assert set(drawn) == {"layers", "stitched_elsewhere", "distances", "accuracies", "agreement", "steps"}
    assert terminal_tables(findings)[0].row_count == 4


def test_the_scalar_distance_of_cka_is_the_papers() -> None:
    """Figures 2 and 8 of arXiv 2310.14993: the curves give 1.356 within and 1.472 across, read off to 0.003."""
    within = [0.996, 0.990, 0.974, 0.956, 0.941, 0.926, 0.916, 0.898, 0.882, 0.878, 0.871, 0.868]
    across = [0.995, 0.988, 0.971, 0.952, 0.936, 0.919, 0.909, 0.889, 0.866, 0.853, 0.836, 0.826]
    curves = np.array([within, across]).T.reshape(12, 1, 2)
    assert over_layers("cka", 1 - curves)[0] == pytest.approx([1.357, 1.470], abs=0.01)
    assert over_layers("procrustes", np.array([[[0.3]], [[0.4]]])) == pytest.approx(0.5)


def test_the_truth_from_accuracies() -> None:
    models = [f"m{index}" for index in range(10)]
    split = np.array([0.1, 0.9, 0.12, 0.88, 0.11, 0.91, 0.13, 0.9, 0.1, 0.92])
    accuracies = {"in": np.full(10, 0.9), "near": np.full(10, 0.5) + 0.001 * np.arange(10), "far": split}
    truth = truth_of(models, accuracies, None, {}, None)
    assert truth.split == "far" and truth.names == ("better", "worse")
    assert truth.labels.tolist() == [1, 0] * 5 and truth.best_and_worst == (0, 1)
    spread = truth_of(models, accuracies, "near", {}, None)
    assert "top and bottom quarter" in spread.origin and (spread.labels >= 0).sum() == 4
    top = truth_of(models, accuracies, "near", {}, 0.2)
    assert top.labels.tolist() == [1, 1, -1, -1, -1, -1, -1, -1, 0, 0]
