"""compare(): two models of different depth and width against the functions on their captured samples."""

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dissimilarity import CKA, JSD, KL, Disagreement, MutualKNN, Procrustes, capture, compare
from dissimilarity.comparison.compare import COLUMNS
from dissimilarity.functional import cka, disagreement, jsd, kl, mutual_knn, procrustes
from models.transformer import Transformer
from tests.helpers.memory import printed_by

VOCABULARY, LENGTH = 23, 8
SITES = "blocks.*.resid_post"


def model(width: int = 16, depth: int = 2, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    net = Transformer(d_model=width, n_layers=depth, d_head=8, n_ctx=LENGTH, d_vocab=VOCABULARY, activation=nn.GELU)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def tokens(sequences: int = 21) -> Tensor:
    return torch.randint(VOCABULARY, (sequences, LENGTH), generator=torch.Generator().manual_seed(0))


def table(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
    return compare(*args, **kwargs).to_pylist()


def rows_of(net: nn.Module, sites: str = SITES) -> dict[str, Tensor]:
    """Return the captured samples of all tokens, in float64."""
    with capture(net, sites) as acts:
        net(tokens())
    return {site: rows.flatten(0, -2).double() for site, rows in acts.items()}


def test_all_pairs_are_the_functions_on_the_captured_samples() -> None:
    a, b = model(16, 2, seed=0), model(24, 3, seed=1)
    result = compare(a, b, tokens(), SITES, [CKA(), CKA(debiased=False), Procrustes(), MutualKNN(k=5)])
    assert tuple(result.column_names) == COLUMNS
    rows = result.to_pylist()
    x, y = rows_of(a), rows_of(b)
    assert [(row["site_a"], row["site_b"]) for row in rows[::4]] == [(i, j) for i in x for j in y]
    for row in rows:
        pair = x[row["site_a"]], y[row["site_b"]]
        expected = {
            "cka": cka(*pair, units=torch.arange(len(tokens())).repeat_interleave(LENGTH)),
            "cka_biased": cka(*pair, debiased=False),
            "procrustes": procrustes(*pair),
            "mutual_knn_5": mutual_knn(*pair, k=5),
        }[row["measure"]]
        assert row["value"] == pytest.approx(expected.item(), abs=2e-6)
        assert row["n_samples"] == 21 * LENGTH and bool(row["note"]) == (row["measure"] == "procrustes")
        assert row["stderr"] > 0 and math.isfinite(row["null"])
        best = 0 if row["measure"] == "procrustes" else 1
        assert row["calibrated"] == pytest.approx((row["value"] - row["null"]) / (best - row["null"]))


def test_the_default_is_cka_and_the_angle_of_the_stream() -> None:
    rows = table(model(), model(seed=1), tokens())
    assert {row["measure"] for row in rows} == {"cka", "procrustes"}
    assert {row["site_a"] for row in rows} == {"blocks.0.resid_post", "blocks.1.resid_post"}


def test_matched_pairs_are_among_all_pairs() -> None:
    a, b = model(depth=2), model(depth=4, seed=1)
    every = {(row["measure"], row["site_a"], row["site_b"]): row for row in table(a, b, tokens())}
    matched = table(a, b, tokens(), pairs="matched")
    assert {(row["site_a"][7], row["site_b"][7]) for row in matched} == {("0", "0"), ("1", "3")}
    for row in matched:
        expected = every[row["measure"], row["site_a"], row["site_b"]]
        for key in ("value", "null", "stderr"):
            assert row[key] == pytest.approx(expected[key], rel=1e-5, abs=1e-6)


def test_a_model_is_at_distance_zero_from_itself() -> None:
    net = model()
    for row in table(net, net, tokens(), measures=[CKA(), Procrustes(), MutualKNN(k=5)]):
        if row["site_a"] == row["site_b"]:
            bound = 1e-3 if row["measure"] == "procrustes" else 1e-6
            assert row["dissimilarity"] == pytest.approx(0.0, abs=bound)
        else:
            assert row["dissimilarity"] > 0.01


def test_calibrated_is_one_for_identical_models_and_missing_without_a_null() -> None:
    net = model(depth=1)
    for row in table(net, net, tokens(), measures=[CKA(), Procrustes(kind="squared")]):
        assert row["calibrated"] == pytest.approx(1, abs=1e-5)
    assert all(math.isnan(row["calibrated"]) for row in table(net, net, tokens(), null=False))


def test_swapping_the_models_transposes_the_table() -> None:
    a, b = model(16, 2, seed=0), model(24, 3, seed=1)
    forward = {(row["measure"], row["site_a"], row["site_b"]): row["value"] for row in table(a, b, tokens())}
    backward = {(row["measure"], row["site_b"], row["site_a"]): row["value"] for row in table(b, a, tokens())}
    assert backward == pytest.approx(forward, abs=1e-6)


def test_the_number_of_units_changes_the_error_bar_alone() -> None:
    a, b = model(), model(seed=1)
    three, ten = table(a, b, tokens(), n_units=3), table(a, b, tokens(), n_units=10)
    for row, other in zip(three, ten, strict=True):
        assert row["value"] == pytest.approx(other["value"], abs=1e-6)
        assert 0.2 < row["stderr"] / other["stderr"] < 5
    assert all(math.isnan(row["stderr"]) and not row["note"] for row in table(a, b, tokens(), n_units=1))


@pytest.mark.parametrize("sequences", [2, 3])
def test_too_few_sequences_for_an_error_bar_are_a_note(sequences: int) -> None:
    for row in table(model(), model(seed=1), tokens(sequences), SITES, [Procrustes()]):
        assert math.isfinite(row["value"]) and math.isnan(row["stderr"])
        assert f"it needs 4 sequences in 2 units and has {sequences}: pass more" in row["note"]


def test_outputs_are_compared_at_the_logits_beside_the_layers() -> None:
    a, b = model(16, 2, seed=0), model(24, 3, seed=1)
    outputs = [Disagreement(), KL(), JSD()]
    rows = table(a, b, tokens(), measures=[CKA(), *outputs, MutualKNN(k=5)])
    at = {row["measure"]: (row["site_a"], row["site_b"]) for row in rows}
    assert {at[measure.label] for measure in outputs} == {("logits", "logits")}
    assert len(rows) == 2 * 2 * 3 + len(outputs)
    with torch.no_grad():
        x, y = (net(tokens()).flatten(0, 1).double() for net in (a, b))
    functions = {"disagreement": disagreement, "kl": kl, "jsd": jsd}
    for row in rows:
        if row["measure"] in functions:
            assert row["value"] == pytest.approx(functions[row["measure"]](x, y).item(), abs=1e-6)
            # Two random models agree on no token.
            assert row["stderr"] > 0 or row["value"] == 1.0
            assert math.isfinite(row["null"]) and row["n_samples"] == 21 * LENGTH
            assert row["dissimilarity"] == row["value"] and not row["note"]
        else:
            assert "resid_post" in row["site_a"] and "resid_post" in row["site_b"]


def test_outputs_alone_are_compared_and_a_model_has_the_outputs_of_itself() -> None:
    net = model()
    rows = table(net, net, tokens(), measures=[Disagreement(), KL(), JSD()])
    assert [row["value"] for row in rows] == [0.0, 0.0, 0.0]
    assert all(row["null"] > 1e-3 for row in rows)


def test_models_of_different_vocabularies_are_compared_by_layers_alone() -> None:
    a, b = model(), model(seed=1)
    b.unembed = nn.Linear(16, VOCABULARY + 1)
    *layers, row = table(a, b, tokens(), measures=[CKA(), KL()])
    assert all(math.isfinite(other["value"]) for other in layers) and row["measure"] == "kl"
    assert math.isnan(row["value"]) and "same classes on both sides, found 23 and 24" in row["note"]


def test_a_layer_that_diverged_is_named_and_the_others_are_measured() -> None:
    a, b = model(), model(seed=1)
    b.blocks[1].get_submodule("mlp.W_out").bias.data[0] = float("nan")  # pyright: ignore
    for row in table(a, b, tokens(), measures=[CKA(), Procrustes(), MutualKNN(k=5)]):
        if row["site_b"] == "blocks.1.resid_post":
            assert math.isnan(row["value"]) and math.isnan(row["dissimilarity"])
            assert row["note"] == f"{21 * LENGTH} values at blocks.1.resid_post are NaN or infinite"
        else:
            assert math.isfinite(row["value"]) and not row["note"]


def test_a_layer_without_variance_is_named() -> None:
    a, b = model(), model(seed=1)
    nn.init.zeros_(a.ln_final.weight)
    for row in table(a, b, tokens(), sites="ln_final"):
        assert math.isnan(row["value"]) and row["note"] == "zero variance at ln_final"


def test_too_few_samples_are_a_note() -> None:
    (row,) = table(model(depth=1), model(depth=1, seed=1), tokens(4), measures=[MutualKNN(k=100)])
    assert math.isnan(row["value"]) and "has 32 samples and needs 102" in row["note"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": "blocks.9.resid_post"}, "blocks.9.resid_post"),
        ({"tokens": tokens(1)}, "at least 2 sequences.*found 1"),
        *(({"n_units": units}, f"whole number of units, .*found n_units={units!r}") for units in (0, True)),
        ({"n_units": 11}, "n_units=11: 21 sequences make at most 10 units"),
        ({"measures": [MutualKNN(k=3), MutualKNN(k=3, max_samples=64)]}, "different labels.*mutual_knn_3"),
    ],
)
def test_inputs_that_cannot_be_compared_are_rejected(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(model(), model(seed=1), arguments.pop("tokens", tokens()), **arguments)


def test_any_inputs_and_models_are_compared() -> None:
    """Images into a plain network: each input is one sample."""
    torch.manual_seed(2)
    a, b = (nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 3)) for width in (8, 5))
    images = torch.randn(40, 3, 2, 2)
    (row,) = table(a, b, images, sites="2", measures=[CKA()])
    with torch.no_grad():
        expected = cka(a[:3](images).double(), b[:3](images).double())
    assert row["value"] == pytest.approx(expected.item(), abs=1e-6) and row["n_samples"] == 40


MEMORY = """
import torch
from torch import nn
from dissimilarity import CKA, MutualKNN, Procrustes, compare
from dissimilarity.comparison import activations
from tests.helpers.memory import peak_during
torch.set_num_threads(1)
activations.IN_MEMORY, activations.FILE_SIZE = 0, 2**22
net = nn.Sequential(nn.Embedding(50, 64), *(nn.Linear(64, 64) for _ in range(4))).requires_grad_(False)
def peak(sequences):
    measures = [CKA(), Procrustes(), MutualKNN(max_samples=256)]
    tokens = torch.randint(50, (sequences, 64))
    return peak_during(lambda: compare(net, net, tokens, "[1-4]", measures, pairs="matched", {options}))
print(peak(2048), peak(4096))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("options", ["n_units=16", "n_units=None"])
def test_memory_does_not_grow_with_the_samples(options: str) -> None:
    """Twice the tokens, read once or kept in files: in memory the activations alone would take 256 MB more."""
    small, large = printed_by(MEMORY.replace("{options}", options))
    assert large - small < 120
