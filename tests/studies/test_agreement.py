"""Agreement of distances with the truth, checked against scikit-learn and scipy, and the layer where groups part."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import adjusted_rand_score, cohen_kappa_score, roc_auc_score

import studies.generalization.agreement
from studies.generalization.agreement import (
    Agreement,
    Evidence,
    adjusted_over,
    agreement,
    drawn_statistics,
    permuted_statistics,
    statistic,
)
from studies.generalization.clusters import find_clusters
from studies.generalization.parting import Parting, partings

TRUTH = np.repeat([0, 1], 6)
PAIRS = np.triu_indices(12, 1)
ALL = np.arange(12)


def planted(gap: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return distances of two groups of six, and accuracies that follow them, with noise."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((12, 5))
    points[:, 0] += gap * TRUTH
    return squareform(pdist(points)), 0.3 + 0.05 * gap * TRUTH + 0.02 * rng.standard_normal(12)


def test_the_statistics_are_those_of_scikit_learn_and_scipy() -> None:
    far, accuracy = planted(2.0)
    clusters = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 2])
    gaps = np.abs(accuracy[PAIRS[0]] - accuracy[PAIRS[1]])
    across = TRUTH[PAIRS[0]] != TRUTH[PAIRS[1]]
    expected = {
        "ari": adjusted_rand_score(TRUTH, clusters),
        "auc": roc_auc_score(across, far[PAIRS]),
        "spearman": stats.spearmanr(far[PAIRS], gaps)[0],
        "kendall": stats.kendalltau(far[PAIRS], gaps)[0],
    }
    for name, value in expected.items():
        assert statistic(name, Evidence(far, clusters, TRUTH, accuracy)) == pytest.approx(value, abs=1e-12)


def test_an_outlier_is_a_separate_cluster() -> None:
    far, accuracy = planted(2.0)
    clusters = np.array([0, 0, 0, 0, -1, -1, 1, 1, 1, 1, 1, 1])
    alone = np.array([0, 0, 0, 0, 2, 3, 1, 1, 1, 1, 1, 1])
    assert statistic("ari", Evidence(far, clusters, TRUTH, accuracy)) == pytest.approx(
        adjusted_rand_score(TRUTH, alone)
    )


def test_models_without_a_group_count_only_for_the_correlations() -> None:
    far, accuracy = planted(2.0)
    truth = np.where(np.isin(ALL, [3, 7]), -1, TRUTH)
    rest = np.nonzero(truth >= 0)[0]
    clusters = find_clusters(far).labels
    for name in ("ari", "auc"):
        part = statistic(name, Evidence(far[np.ix_(rest, rest)], clusters[rest], TRUTH[rest], accuracy[rest]))
        assert statistic(name, Evidence(far, clusters, truth, accuracy)) == pytest.approx(part)
    assert statistic("kendall", Evidence(far, clusters, truth, accuracy)) == statistic(
        "kendall", Evidence(far, clusters, TRUTH, accuracy)
    )


def test_planted_groups_agree_with_the_truth() -> None:
    far, accuracy = planted(8.0)
    statistics = agreement(Evidence(far, find_clusters(far).labels, TRUTH, accuracy))
    assert statistics["ari"].value == statistics["ari"].low == statistics["auc"].value == 1
    for value in statistics.values():
        assert value.p <= 0.01 and value.low <= value.value <= value.high and value.low > value.chance
    assert statistics["spearman"].value > 0.6 and statistics["kendall"].value > 0.4


def test_with_the_labels_shuffled_the_statistics_fall_to_chance() -> None:
    far, accuracy = planted(8.0)
    groups = find_clusters(far).labels
    shuffled = [np.random.default_rng(seed).permutation(12) for seed in range(40)]
    for name, chance in {"ari": 0.0, "auc": 0.5, "spearman": 0.0, "kendall": 0.0}.items():
        values = [statistic(name, Evidence(far, groups, TRUTH[order], accuracy[order])) for order in shuffled]
        assert np.mean(values) == pytest.approx(chance, abs=0.1)
        assert agreement(Evidence(far, groups, TRUTH, accuracy))[name].chance == pytest.approx(chance, abs=0.02)


def test_permuted_correlations_are_those_of_each_permutation() -> None:
    far, accuracy = planted(2.0)
    evidence = Evidence(far, TRUTH, TRUTH, accuracy)
    orders = np.stack([np.random.default_rng(seed).permutation(12) for seed in range(5)])
    gaps = np.abs(accuracy[orders][:, PAIRS[0]] - accuracy[orders][:, PAIRS[1]])
    expected = np.array([float(stats.spearmanr(far[PAIRS], gap).statistic) for gap in gaps])  # pyright: ignore
    np.testing.assert_allclose(permuted_statistics("spearman", evidence, orders), expected)


def test_p_values_are_adjusted_over_all_that_have_one() -> None:
    p = [0.01, float("nan"), 0.04, 0.5]
    adjusted = [entry.adjusted for entry in adjusted_over([Agreement(p=value) for value in p])]
    np.testing.assert_allclose(adjusted, [0.03, np.nan, 0.06, 0.5])


def test_p_values_without_a_relation_are_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies.generalization.agreement, "DRAWS", 29)
    p_values = []
    for seed in range(40):
        far, _ = planted(0.0, seed)
        p_values.append(
            agreement(Evidence(far, np.repeat([0, 1], 6)[::-1], TRUTH, planted(0.0, seed + 100)[1]), seed=seed)["auc"].p
        )
    assert 0.35 < np.mean(p_values) < 0.65


def test_draws_leave_out_a_model_with_itself() -> None:
    far, accuracy = planted(2.0)
    far = np.round(far, 1)  # with ties
    clusters = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 2])
    drawn = np.random.default_rng(0).integers(12, size=(3, 12))
    for row, draw in enumerate(drawn):
        pairs = np.array([(i, j) for place, i in enumerate(draw) for j in draw[place + 1 :] if i != j])
        a, b = pairs.T
        gaps, across = np.abs(accuracy[a] - accuracy[b]), TRUTH[a] != TRUTH[b]
        expected = {
            "ari": cohen_kappa_score(clusters[a] == clusters[b], ~across),  # the same over pairs (Warrens 2008)
            "auc": roc_auc_score(across, far[a, b]),
            "spearman": stats.spearmanr(far[a, b], gaps)[0],
            "kendall": stats.kendalltau(far[a, b], gaps)[0],
        }
        for name, value in expected.items():
            drawn_values = drawn_statistics(name, Evidence(far, clusters, TRUTH, accuracy), drawn)
            assert drawn_values[row] == pytest.approx(value, abs=1e-12)


def test_without_two_groups_or_a_gap_there_is_nothing_to_agree_with() -> None:
    far, accuracy = planted(2.0)
    statistics = agreement(Evidence(far, TRUTH, np.zeros(12, int), np.full(12, 0.5)))
    assert all(np.isnan(entry.value) and np.isnan(entry.p) for entry in statistics.values())
    assert np.isfinite(agreement(Evidence(far, TRUTH, TRUTH, accuracy))["auc"].value)


def curves(first: int, layers: int = 6, gap: float = 4.0, seed: int = 0) -> np.ndarray:
    return np.stack([planted(gap if layer >= first else 0.0, seed + layer)[0] for layer in range(layers)])


def parting(far: np.ndarray, truth: np.ndarray) -> Parting | None:
    return partings({"cka": far}, truth).get("cka")


@pytest.mark.parametrize("first", [0, 3, 5])
def test_groups_part_where_they_were_planted_to(first: int) -> None:
    result = parting(curves(first), TRUTH)
    assert result is not None and result.first == first
    assert result.earliest is not None and result.latest is not None and result.earliest <= first <= result.latest
    assert result.shares.sum() == pytest.approx(1) and result.shares[first] > 0.5
    assert (result.p[first:] <= 0.01).all() and (result.low[first:] > 0).all()


def test_groups_without_a_difference_never_part() -> None:
    result = parting(curves(6), TRUTH)
    assert result is not None and result.first is None and result.latest is None


def test_a_layer_that_differs_before_layers_that_do_not_is_not_the_parting() -> None:
    far = curves(4)
    far[1] = planted(4.0, 9)[0]
    result = parting(far, TRUTH)
    assert result is not None and result.first == 4 and result.p[1] < 0.01


def test_p_values_of_partings_are_adjusted_over_measures_and_layers() -> None:
    distances = {"a": curves(4), "b": curves(6, seed=20), "c": curves(6, seed=40)}
    together = partings(distances, TRUTH)
    p = np.stack([result.p for result in together.values()])
    expected = stats.false_discovery_control(p.ravel()).reshape(p.shape)
    np.testing.assert_allclose([result.adjusted for result in together.values()], expected)
    assert (together["a"].first, together["b"].first, together["c"].first) == (4, None, None)


def test_groups_of_four_have_contrasts_and_no_verdict() -> None:
    few = np.where(np.isin(ALL, [4, 5]), -1, TRUTH)
    result = parting(curves(0), few)
    assert result is not None and result.models == 4 and not result.has_verdict
    assert result.first is None and np.isnan(result.p).all() and (result.contrast > 0).all()
    statistics = agreement(Evidence(curves(0)[0], TRUTH, few, TRUTH * 0.5))
    assert (
        np.isfinite(statistics["auc"].value) and np.isnan(statistics["auc"].p) and np.isfinite(statistics["spearman"].p)
    )


def test_parting_needs_two_groups_of_two_models() -> None:
    assert parting(curves(0), np.zeros(12, int)) is None
    assert parting(curves(0), np.array([0] * 11 + [1])) is None
    truth = np.where(np.isin(ALL, [0, 11]), -1, TRUTH)
    result = parting(curves(2), truth)
    assert result is not None and result.first == 2
