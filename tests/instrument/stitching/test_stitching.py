"""Stitching: planted answers, closed forms against numpy, errors against the textbook, training that keeps its best."""

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from dissimilarity import Stitch, capture
from dissimilarity.stitching import (
    PAPER,
    Penalty,
    Recipe,
    barrier,
    barrier_of,
    baselines,
    direct_penalties,
    enterable_sites,
    randomized,
    scores_between,
    shuffled,
)
from dissimilarity.stitching.direct import fit_direct, split
from dissimilarity.stitching.losses import sequence_losses
from dissimilarity.stitching.maps import Kind
from tests.helpers.families import family_net
from tests.helpers.planted import D_VOCAB, in_other_basis, rotation, text, trained

KINDS = get_args(Kind)
SITE = "blocks.0.resid_post"


@pytest.fixture(scope="module")
def net() -> Any:
    return trained()


@pytest.fixture(scope="module")
def other() -> Any:
    return trained("relu", width=128, depth=3, seed=5)


@pytest.fixture(scope="module")
def fit() -> Tensor:
    return text(120, seed=1)


@pytest.fixture(scope="module")
def held() -> Tensor:
    return text(60, seed=2)


def rank_of(kind: str) -> int | None:
    return 24 if kind == "low_rank" else None


def rows(model: nn.Module, tokens: Tensor, site: str) -> np.ndarray:
    with capture(model, site) as acts:
        model(tokens)
    return acts[site].flatten(0, 1).double().numpy()


# Planted answers


@pytest.mark.parametrize("family", ["gelu", "solu", "pythia", "attn_only"])
def test_a_rotated_copy_costs_nothing_except_with_maps_that_cannot_rotate(family, fit, held):
    front = trained(family, steps=40)
    back = in_other_basis(front, rotation(64))
    torch.testing.assert_close(back(held), front(held), atol=1e-4, rtol=1e-4)
    for site in enterable_sites(front):
        for kind in ("orthogonal", "affine"):
            penalty = Stitch(front, back, site, kind=kind).fit(fit).penalty(held)
            assert abs(penalty.value) < 1e-4, (site, kind)
            assert penalty.loss_front == pytest.approx(penalty.loss_back, abs=1e-5)
        for kind in ("identity", "scale_shift"):
            assert Stitch(front, back, site, kind=kind).fit(fit).penalty(held).value > 0.3, (site, kind)


def test_the_rotation_itself_is_recovered(net, fit):
    turn = rotation(64)
    for kind in ("orthogonal", "affine"):
        fitted = Stitch(net, in_other_basis(net, turn), SITE, kind=kind).fit(fit).fitted
        assert fitted is not None
        x = torch.from_numpy(rows(net, fit, SITE)).float()
        torch.testing.assert_close(fitted.map(x), x @ turn.float(), atol=1e-4, rtol=1e-3)


def test_permuted_neurons_cost_nothing(net, fit, held):
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    back = in_other_basis(net, torch.eye(64)[order])
    for kind in ("orthogonal", "affine"):
        assert abs(Stitch(net, back, SITE, kind=kind).fit(fit).penalty(held).value) < 1e-4
    assert Stitch(net, back, SITE, kind="identity").fit(fit).penalty(held).value > 0.3
    inside = deepcopy(net)
    with torch.no_grad():
        for block in inside.blocks:
            turn = torch.randperm(256)
            block.mlp.W_in.weight.copy_(block.mlp.W_in.weight[turn])
            block.mlp.W_in.bias.copy_(block.mlp.W_in.bias[turn])
            block.mlp.W_out.weight.copy_(block.mlp.W_out.weight[:, turn])
    assert abs(Stitch(net, inside, SITE, kind="identity").fit(fit).penalty(held).value) < 1e-5


def test_a_scaled_and_shifted_stream_needs_scale_and_shift(fit, held):
    class Stretched(nn.Module):
        def __init__(self, net: Any):
            super().__init__()
            self.embed, self.unembed, self.blocks = net.embed, net.unembed, nn.ModuleList([nn.Identity() for _ in "ab"])
            self.after = nn.Identity()
            self.factor = nn.Parameter(torch.tensor(1.0))

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.factor * self.embed(tokens) + (self.factor - 1)
            for block in self.blocks:
                x = block(x)
            return self.unembed((x - (self.factor - 1)) / self.factor)

    torch.manual_seed(0)
    front = Stretched(family_net("gelu", d_vocab=D_VOCAB, width=64))
    nn.init.normal_(front.embed.weight)
    nn.init.normal_(front.unembed.weight)
    back = deepcopy(front)
    back.factor.data.fill_(3.0)
    for kind in ("scale_shift", "affine"):
        assert abs(Stitch(front, back, SITE, kind=kind).fit(fit).penalty(held).value) < 1e-5
    assert Stitch(front, back, SITE, kind="orthogonal").fit(fit).penalty(held).value < -1


def test_self_stitches_at_the_identity_cost_exactly_nothing(net, other, held, fit):
    for model in (net, other, trained("solu", steps=5), trained("pythia", steps=5)):
        for site in enterable_sites(model):
            penalty = Stitch(model, model, site, kind="identity").fit(fit).penalty(held)
            assert penalty.value == 0.0 and penalty.stderr == 0.0
    for kind in ("affine", "scale_shift", "orthogonal", "low_rank"):
        untrained = Recipe(max_steps=0)
        stitch = Stitch(
            net, net, SITE, kind=kind, fit="task", start="identity", recipe=untrained,
            rank=64 if kind == "low_rank" else None,
        )  # fmt: skip
        assert stitch.fit(fit).penalty(held).value == 0.0, kind


def test_direct_self_stitches_cost_next_to_nothing(net, fit, held):
    for kind in ("orthogonal", "affine", "scale_shift"):
        assert abs(Stitch(net, net, SITE, kind=kind).fit(fit).penalty(held).value) < 1e-4, kind


# Closed forms


def by_numpy(kind: str, x: np.ndarray, y: np.ndarray, ridge: float | None) -> np.ndarray:
    """Return x after a direct stitch of a kind."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    if kind == "scale_shift":
        return x * ((x * y).sum(0) / (x * x).sum(0)) + y_mean
    if kind == "orthogonal":
        u, _, vh = np.linalg.svd(x.T @ y, full_matrices=False)
        return x @ (u @ vh) + y_mean
    assert ridge is not None
    level = ridge * np.mean(np.linalg.eigvalsh(x.T @ x))
    # Ridge regression as least squares with rows of its own, not by normal equations.
    more_x = np.concatenate([x, np.sqrt(level) * np.eye(x.shape[1])])
    more_y = np.concatenate([y, np.zeros((x.shape[1], y.shape[1]))])
    weight = np.linalg.lstsq(more_x, more_y, rcond=None)[0]
    if kind == "low_rank":
        # Reduced-rank regression: the fit's own principal directions.
        _, _, vh = np.linalg.svd(more_x @ weight, full_matrices=False)
        weight = weight @ vh[:24].T @ vh[:24]
    return x @ weight + y_mean


@pytest.mark.parametrize("kind", ["scale_shift", "orthogonal", "affine", "low_rank"])
@pytest.mark.parametrize("widths", ["equal", "wider behind", "narrower behind"])
def test_direct_equals_numpy(kind, widths, net, other, fit):
    if kind == "scale_shift" and widths != "equal":
        return
    sibling = trained("gelu", seed=3, steps=10)
    front, back = {"equal": (net, sibling), "wider behind": (net, other), "narrower behind": (other, net)}[widths]
    fitted = fit_direct(front.double(), back.double(), fit, [(SITE, SITE)], kind, rank_of(kind))[SITE, SITE]
    single = fit_direct(front.float(), back.float(), fit, [(SITE, SITE)], kind, rank_of(kind))[SITE, SITE]
    x, y = rows(front.double(), fit, SITE), rows(back.double(), fit, SITE)
    expected = by_numpy(kind, x, y, fitted.ridge)
    mapped = fitted.map(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(mapped, expected, atol=1e-7 * np.abs(expected).max())
    for model in (front, back):
        model.float()
    expected = by_numpy(kind, x, y, single.ridge)
    mapped = single.map(torch.from_numpy(x).float()).detach().numpy()
    np.testing.assert_allclose(mapped, expected, atol=1e-4 * np.abs(expected).max())


def test_the_ridge_is_the_best_of_the_grid_on_the_selecting_sequences(net, other):
    short_text = text(14, seed=3)
    fit, choose = split(short_text)
    fitted = fit_direct(other.double(), net.double(), short_text, [(SITE, SITE)], "affine", together=False)[SITE, SITE]
    x, y = rows(other, fit, SITE), rows(net, fit, SITE)
    x_held, y_held = rows(other, choose, SITE), rows(net, choose, SITE)
    errors = {}
    for ridge in (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        level = ridge * np.trace(np.cov(x.T, bias=True)) * len(x) / x.shape[1]
        centered = x - x.mean(0)
        weight = np.linalg.solve(centered.T @ centered + level * np.eye(x.shape[1]), centered.T @ (y - y.mean(0)))
        errors[ridge] = np.square((x_held - x.mean(0)) @ weight + y.mean(0) - y_held).sum()
    for model in (other, net):
        model.float()
    assert fitted.ridge == min(errors, key=lambda ridge: errors[ridge])
    assert fitted.ridge is not None and 1e-8 < fitted.ridge < 1.0


def test_a_singular_covariance_is_reported_and_solved(net, fit, held):
    flat = deepcopy(net)
    with torch.no_grad():
        # The stream after the embedding lies in 8 of 64 dimensions.
        projection = rotation(64)[:, :8].float()
        flat.embed.weight.copy_(flat.embed.weight @ projection @ projection.T)
        flat.pos_embed.weight.zero_()
    penalty = direct_penalties(flat, net, fit, held, [("embed", "embed")], "affine")["embed", "embed"]
    assert penalty.note.startswith("singular covariance, rank 8 of 64: ridge ") and math.isfinite(penalty.value)
    assert penalty.ridge is not None and penalty.ridge > 0
    plain = Stitch(net, net, "blocks.1.resid_post").fit(fit)
    assert plain.fitted is not None and plain.fitted.note == ""


def test_several_batches_and_a_large_mean_change_nothing(net):
    tokens, held = text(800, seed=4), text(900, seed=5)
    sibling = trained("gelu", seed=3, steps=10)
    whole = Stitch(sibling, net, SITE).fit(tokens)
    assert whole.fitted is not None
    x, y = rows(sibling, tokens, SITE), rows(net, tokens, SITE)
    expected = by_numpy("affine", x, y, whole.fitted.ridge)
    np.testing.assert_allclose(whole.fitted.map(torch.from_numpy(x).float()).detach().numpy(), expected, atol=2e-3)
    assert whole.penalty(held).sequences == 900


# The penalty


def test_the_standard_error_is_the_paired_one(net, other, fit, held):
    stitch = Stitch(other, net, SITE, "blocks.1.resid_pre").fit(fit)
    penalty = stitch.penalty(held, bytes_per_token=2.5)
    assert stitch.fitted is not None
    with capture(other, SITE) as acts:
        other(held)
    stream = stitch.fitted.map(acts[SITE])
    with torch.no_grad():
        logits = net.unembed(net.ln_final(net.blocks[1](stream)))
        itself, front = sequence_losses(net(held), held), sequence_losses(other(held), held)
    losses = -logits.log_softmax(-1)[:, :-1].gather(-1, held[:, 1:, None])[..., 0].mean(1)
    difference = (losses - itself).double().detach().numpy()
    assert penalty.value == pytest.approx(difference.mean(), abs=1e-6)
    assert penalty.stderr == pytest.approx(difference.std(ddof=1) / np.sqrt(60), rel=1e-4)
    assert penalty.loss_stitched - penalty.loss_back == pytest.approx(penalty.value, abs=1e-9)
    assert penalty.loss_back == pytest.approx(float(itself.mean()), abs=1e-6)
    assert penalty.loss_front == pytest.approx(float(front.mean()), abs=1e-6)
    assert penalty.bits_per_byte == pytest.approx(penalty.value / (math.log(2) * 2.5))
    assert (penalty.sequences, penalty.tokens, penalty.steps, penalty.converged) == (60, 720, 0, True)
    assert stitch.penalty(held).bits_per_byte is None
    with pytest.raises(AttributeError):
        penalty.value = 0.0  # pyright: ignore[reportAttributeAccessIssue]


def test_many_pairs_from_one_pass_equal_one_stitch_each(net, other, fit, held):
    calls = []
    handle = other.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    for kind in ("affine", "orthogonal", "low_rank", "affine_ln"):
        penalties = direct_penalties(other, net, fit, held, kind=kind, rank=rank_of(kind))
        assert list(penalties) == [
            (f"blocks.{i}.resid_post", f"blocks.{j}.resid_post") for i, j in ((0, 0), (1, 1), (2, 1))
        ]
        for (site, back_site), penalty in penalties.items():
            alone = Stitch(other, net, site, back_site, kind, rank=rank_of(kind)).fit(fit).penalty(held)
            assert penalty == alone
    pairs = [(a, b) for a in enterable_sites(other) for b in enterable_sites(net)]
    calls.clear()
    direct_penalties(other, net, fit, held, pairs)
    handle.remove()
    # One each to tell the vocabulary, the positions and the widths, to fit, to choose and to hold out.
    assert len(calls) == 6


def test_layers_of_one_model_by_identity(net, other, fit, held):
    sites = [site for site in enterable_sites(other) if site.endswith("resid_post")]
    pairs = [(a, b) for a in sites for b in sites]
    penalties = direct_penalties(other, other, fit, held, pairs, "identity")
    assert all((penalty.value == 0.0) == (a == b) for (a, b), penalty in penalties.items())
    with torch.no_grad():
        first = other.blocks[0](other.embed(held) + other.pos_embed.weight[:12])
        skipped = sequence_losses(other.unembed(other.ln_final(other.blocks[2](first))), held).mean()
        twice = first
        for layer in (1, 1, 2):
            twice = other.blocks[layer](twice)
        again = sequence_losses(other.unembed(other.ln_final(twice)), held).mean()
    assert penalties[sites[0], sites[1]].loss_stitched == pytest.approx(float(skipped), abs=1e-5)
    assert penalties[sites[1], sites[0]].loss_stitched == pytest.approx(float(again), abs=1e-5)


def test_a_penalty_lies_between_self_stitches_and_nulls(net, fit, held):
    sibling = trained("gelu", seed=3)
    stitch = Stitch(sibling, net, SITE)
    value = stitch.fit(fit).penalty(held).value
    losses = baselines(stitch, fit, held, bytes_per_token=2.0)
    assert set(losses) == {"self_back", "self_front", "null_random", "null_shuffled"}
    assert abs(losses["self_back"].value) < 1e-3 and abs(losses["self_front"].value) < 1e-3
    assert losses["self_back"].loss_front == losses["self_back"].loss_back == stitch.penalty(held).loss_back
    assert losses["self_front"].loss_back == stitch.penalty(held).loss_front
    assert value < 0.5 * losses["null_shuffled"].value and value < losses["null_random"].value
    assert losses["null_random"].bits_per_byte is not None
    inside = baselines(Stitch(sibling, net, "blocks.0.mlp.post", SITE), fit, held)
    assert "self_front" not in inside


def test_nulls_keep_the_statistics_but_not_the_content(net, held):
    other = randomized(net)
    for (name, weight), shuffled_weight in zip(net.named_parameters(), other.parameters(), strict=True):
        assert weight is not shuffled_weight
        assert torch.equal(weight.flatten().sort()[0], shuffled_weight.flatten().sort()[0])
        assert weight.ndim == 1 or not torch.equal(weight, shuffled_weight), name
    with capture(net, SITE) as acts:
        net(held)
    model = shuffled(net)
    with capture(model, [SITE, "logits"]) as moved:
        model(held)
    assert torch.equal(moved[SITE], acts[SITE].roll(1, 0))
    assert "forward" not in vars(net) and len(net._forward_hooks) == 0


# Training


def test_training_lowers_the_loss_and_keeps_its_best(net, other, fit, held):
    for kind in ("affine", "orthogonal", "low_rank", "affine_ln"):
        seen: list[tuple[int, float]] = []
        recipe = Recipe(max_steps=120, evaluate_every=20, lr=3e-3)
        stitch = Stitch(other, net, SITE, kind=kind, fit="task", start="random", rank=rank_of(kind), recipe=recipe)
        stitch.fit(fit, progress=lambda step, loss, seen=seen: seen.append((step, loss)))
        assert [step for step, _ in seen] == [0, 20, 40, 60, 80, 100, 120]
        assert stitch.fitted is not None
        best = min(seen, key=lambda evaluation: evaluation[1])
        assert best[1] < seen[0][1] - 0.3 and stitch.fitted.steps == best[0]
        penalty_on_selection = stitch.penalty(split(fit)[1])
        assert penalty_on_selection.loss_stitched == pytest.approx(best[1], abs=1e-6)
        assert stitch.fitted.note == "the loss was still falling at step 120" and not stitch.fitted.converged


def test_training_from_the_direct_stitch_ends_below_it_and_stops_on_its_own(net, fit, held):
    sibling = trained("relu", seed=3, steps=20)
    seen: list[float] = []
    stitch = Stitch(sibling, net, SITE, fit="task", recipe=Recipe(evaluate_every=10, lr=1e-3, patience=3))
    stitch.fit(fit, progress=lambda step, loss: seen.append(loss))
    assert stitch.fitted is not None and stitch.fitted.converged and "falling" not in stitch.fitted.note
    assert len(seen) < 200 and min(seen) <= seen[0]
    assert stitch.penalty(split(fit)[1]).loss_stitched == pytest.approx(min(seen), abs=1e-6)
    start = fit_direct(sibling, net, fit, [(SITE, SITE)], "affine", together=False)[SITE, SITE]
    assert stitch.fitted.ridge == start.ridge
    direct = Stitch(sibling, net, SITE)
    direct.fitted = start
    assert direct.penalty(split(fit)[1]).loss_stitched == pytest.approx(seen[0], abs=1e-6)


def test_an_orthogonal_stitch_stays_orthogonal(net, other, fit):
    for front, back in ((net, other), (other, net)):
        recipe = Recipe(max_steps=20, evaluate_every=10, lr=1e-2)
        fitted = Stitch(front, back, SITE, kind="orthogonal", fit="task", recipe=recipe).fit(fit).fitted
        assert fitted is not None and fitted.steps > 0
        turned: Any = fitted.map
        weight = turned.weight.detach().double()
        inner = weight.T @ weight if weight.shape[0] > weight.shape[1] else weight @ weight.T
        torch.testing.assert_close(inner, torch.eye(64, dtype=torch.float64), atol=1e-5, rtol=0)
        assert bool(turned.skew.any())


@pytest.mark.parametrize("lr", [1e20, math.inf])
def test_training_that_diverges_keeps_its_best_and_says_so(lr, net, other, fit, held):
    recipe = Recipe(optimizer="sgd", lr=lr, clip=None, max_steps=50, evaluate_every=5, patience=None)
    stitch = Stitch(other, net, SITE, fit="task", recipe=recipe).fit(fit)
    assert stitch.fitted is not None and not stitch.fitted.converged
    assert "diverged at step " in stitch.fitted.note and "is kept" in stitch.fitted.note
    direct = Stitch(other, net, SITE)
    direct.fitted = fit_direct(other, net, fit, [(SITE, SITE)], "affine", together=False)[SITE, SITE]
    assert stitch.penalty(split(fit)[1]).loss_stitched <= direct.penalty(split(fit)[1]).loss_stitched
    assert math.isfinite(stitch.penalty(held).value) and stitch.penalty(held).note == stitch.fitted.note


def test_the_papers_recipe(net, fit, held):
    stitch = Stitch(net, net, SITE, **{**PAPER, "recipe": replace(PAPER["recipe"], max_steps=60, warmup=6)})
    penalty = stitch.fit(fit).penalty(held)
    assert isinstance(penalty, Penalty) and penalty.converged and penalty.steps > 0
    cold = Stitch(net, net, SITE, **{**PAPER, "recipe": replace(PAPER["recipe"], max_steps=0)}).fit(fit).penalty(held)
    assert penalty.value < cold.value - 1
    recipe = PAPER["recipe"]
    assert (recipe.optimizer, recipe.max_steps, recipe.warmup, recipe.clip) == ("sgd", 2000, 200, 1.0)


def test_training_touches_neither_model_and_does_not_depend_on_the_global_generator(net, other, fit, held):
    before = {name: weight.clone() for model in (net, other) for name, weight in model.state_dict().items()}
    penalties = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        recipe = Recipe(max_steps=10, evaluate_every=5)
        with torch.inference_mode(seed == 2):
            stitch = Stitch(other, net, SITE, fit="task", start="random", recipe=recipe)
            penalties.append(stitch.fit(fit).penalty(held))
        assert torch.equal(torch.get_rng_state(), state)
    assert penalties[0] == penalties[1]
    after = {name: weight for model in (net, other) for name, weight in model.state_dict().items()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(weight.grad is None and weight.requires_grad for model in (net, other) for weight in model.parameters())


def test_activations_that_do_not_fit_are_captured_again(net, fit, held, monkeypatch):
    recipe = Recipe(max_steps=20, evaluate_every=10)
    cached = Stitch(net, net, SITE, fit="task", start="random", recipe=recipe).fit(fit).penalty(held)
    monkeypatch.setattr("dissimilarity.stitching.task.MEMORY", 1000)
    uncached = Stitch(net, net, SITE, fit="task", start="random", recipe=recipe).fit(fit).penalty(held)
    assert uncached.value == pytest.approx(cached.value, abs=1e-5)


# Other models


def test_between_our_models_and_hugging_faces(net, fit, held):
    torch.manual_seed(0)
    gpt2 = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=D_VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=16)
    )
    for front, back in ((net, gpt2), (gpt2, net)):
        for method in ("direct", "task"):
            stitch = Stitch(front, back, "blocks.1.resid_post", SITE, fit=method, recipe=Recipe(max_steps=4))
            assert math.isfinite(stitch.fit(fit).penalty(held).value)


def test_in_half_precision_and_under_autocast(net, fit, held):
    half = deepcopy(net).bfloat16()
    assert Stitch(half, half, SITE, kind="identity").fit(fit).penalty(held).value == 0.0
    assert abs(Stitch(half, net, SITE).fit(fit).penalty(held).value) < 0.05
    with torch.autocast("cpu", torch.bfloat16):
        assert Stitch(net, net, SITE, kind="identity").fit(fit).penalty(held).value == 0.0
        stitch = Stitch(net, net, SITE, fit="task", start="random", recipe=Recipe(max_steps=4))
        assert math.isfinite(stitch.fit(fit).penalty(held).value)


# Linear mode connectivity


def test_barrier(net, held):
    itself = barrier(net, net, held)
    assert itself.value == 0.0 and len(itself.t) == len(itself.losses) == 11
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    sibling = trained("gelu", seed=3)
    peak = barrier(net, sibling, held, points=5)
    assert peak.t == (0.0, 0.25, 0.5, 0.75, 1.0) and peak.value > 0.1 and 0 < peak.at < 1
    middle = deepcopy(net)
    middle.load_state_dict({name: (weight + sibling.state_dict()[name]) / 2 for name, weight in before.items()})
    with torch.no_grad():
        losses = [sequence_losses(model(held), held).double().numpy() for model in (net, middle, sibling)]
    for index, loss in zip((0, 2, 4), losses, strict=True):
        assert peak.losses[index] == pytest.approx(loss.mean(), abs=1e-5)
    excess = [loss - (1 - t) * peak.losses[0] - t * peak.losses[4] for t, loss in zip(peak.t, peak.losses, strict=True)]
    assert peak.value == pytest.approx(max(excess), abs=1e-9)
    assert peak.at == 0.5
    difference = losses[1] - (losses[0] + losses[2]) / 2
    assert peak.stderr == pytest.approx(difference.std(ddof=1) / np.sqrt(60), rel=1e-3)
    uneven = barrier(net, trained("gelu", seed=3, steps=8), held, points=5)
    chord = [(1 - t) * uneven.losses[0] + t * uneven.losses[4] for t in uneven.t]
    excess = [loss - line for loss, line in zip(uneven.losses, chord, strict=True)]
    assert uneven.value == pytest.approx(max(excess), abs=1e-9) and uneven.at != 0.5
    assert all(torch.equal(weight, net.state_dict()[name]) for name, weight in before.items())


def test_a_barrier_needs_equal_models(net, other, held):
    with pytest.raises(ValueError, match="names and shapes of weights, found that only one of them has blocks.2"):
        barrier(net, other, held)
    with pytest.raises(ValueError, match=r"embed.weight has shapes \(31, 64\) and \(31, 128\), and \d+ more"):
        barrier(net, trained("gelu", width=128, steps=0), held)
    with pytest.raises(ValueError, match="at least 3 points"):
        barrier(net, net, held, points=2)


def test_barriers_are_measured_in_any_score(net, held):
    """Errors as well as losses, several scores in one pass, with rows identified by their position."""
    sibling, targets = trained("gelu", seed=3), held[:, -1]

    def score(logits, rows):
        last = logits[:, -1]
        loss = torch.nn.functional.cross_entropy(last, targets[rows], reduction="none")
        return torch.stack([loss, (last.argmax(-1) != targets[rows]).float()], 1)

    scores = scores_between(net, sibling, held, score, points=3)
    assert scores.shape == (3, len(held), 2) and scores.dtype == torch.float64
    with torch.no_grad():
        assert scores[0] == pytest.approx(score(net(held)[:], slice(None)).numpy(), abs=1e-5)
        assert scores[2] == pytest.approx(score(sibling(held), slice(None)).numpy(), abs=1e-5)
    errors = barrier_of(scores[..., 1])
    assert errors.losses == tuple(scores[..., 1].mean(1).tolist())
    assert errors.value == pytest.approx(max(0, errors.losses[1] - (errors.losses[0] + errors.losses[2]) / 2))


# Rejections


@pytest.mark.usefixtures("unchecked")
def test_rejections(net, other, fit, held):
    with pytest.raises(ValueError, match="the back model cannot be entered at 'blocks.0.attn_out'.*resid_post"):
        Stitch(net, net, "blocks.0.attn_out")
    with pytest.raises(ValueError, match="blocks.9.resid_post"):
        Stitch(net, net, "blocks.9.resid_post", SITE)
    with pytest.raises(ValueError, match="expected fit direct or task, found 'least_squares'"):
        Stitch(net, net, SITE, fit="least_squares")  # pyright: ignore[reportArgumentType]
    vocabulary = family_net("gelu", d_vocab=40, width=64)
    with pytest.raises(ValueError, match="different vocabularies: the front model returns 40 logits.*back model 31"):
        Stitch(vocabulary, net, SITE).fit(fit)
    with pytest.raises(ValueError, match="different vocabularies"):
        direct_penalties(net, vocabulary, fit, held)
    bare = transformers.GPT2Model(transformers.GPT2Config(vocab_size=D_VOCAB, n_embd=32, n_layer=2, n_head=4))
    with pytest.raises(ValueError, match="cannot stitch GPT2Model: it returns hidden states and no logits"):
        Stitch(bare, net, "blocks.0.resid_post", SITE).fit(fit)
    with pytest.raises(ValueError, match="tokens from 0 to 30, the models' vocabulary, found 0 to 99"):
        Stitch(net, net, SITE).fit(torch.cat([fit, torch.full_like(fit[:1], 99)]))
    for kind in ("identity", "scale_shift"):
        with pytest.raises(ValueError, match=f"kind {kind} needs equal widths, found 128 in front and 64 in the back"):
            Stitch(other, net, SITE, kind=kind).fit(fit)
    with pytest.raises(ValueError, match="low_rank needs rank= from 1 to 64, found None"):
        Stitch(other, net, SITE, kind="low_rank").fit(fit)
    with pytest.raises(ValueError, match="only a stitch of kind low_rank has a rank"):
        Stitch(other, net, SITE, rank=3).fit(fit)
    with pytest.raises(ValueError, match="expected one of the kinds identity.*found 'linear'"):
        Stitch(net, net, SITE, kind="linear").fit(fit)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="from width 128 to 64 cannot start at the identity"):
        Stitch(other, net, SITE, fit="task", start="identity").fit(fit)
    with pytest.raises(ValueError, match="expected start direct, identity or random, found 'zero'"):
        Stitch(net, net, SITE, fit="task", start="zero").fit(fit)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"tokens to fit on.*at least 10 sequences.*found \(9, 12\)"):
        Stitch(net, net, SITE).fit(fit[:9])
    with pytest.raises(ValueError, match=r"held-out tokens.*at least 2 sequences.*found \(1, 12\)"):
        Stitch(net, net, SITE).fit(fit).penalty(held[:1])
    with pytest.raises(ValueError, match=r"call \.fit\(tokens\) first"):
        Stitch(net, net, SITE).penalty(held)
    with pytest.raises(ValueError, match="optimizer adam or sgd"):
        Recipe(optimizer="lion")  # pyright: ignore[reportArgumentType]
    broken = deepcopy(net)
    with torch.no_grad():
        broken.blocks[0].mlp.W_out.bias[3] = math.nan
    for front, back, name in ((broken, net, "front"), (net, broken, "back")):
        with pytest.raises(ValueError, match=f"the {name} model's activation at {SITE} is not finite"):
            Stitch(front, back, SITE).fit(fit)


def test_sites_of_another_layout_are_rejected_with_their_shapes(fit, held):
    """As many sequences as positions, which are folded or swapped: sums would run over pairs that do not belong."""

    class Front(nn.Module):
        def __init__(self, fold: bool) -> None:
            super().__init__()
            self.embed, self.inner, self.unembed = nn.Embedding(D_VOCAB, 8), nn.Linear(8, 8), nn.Linear(8, D_VOCAB)
            self.fold = fold

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            x = self.inner(x.flatten(0, 1)).unflatten(0, tokens.shape) if self.fold else self.inner(x.transpose(0, 1))
            return self.unembed(x if self.fold else x.transpose(0, 1))

    back = family_net("gelu", D_VOCAB)
    for fold, shape in ((True, r"\(6, 8\)"), (False, r"\(2, 3, 8\)")):
        message = f"at inner of the front model, found {shape} of tokens"
        with pytest.raises(ValueError, match=message):
            Stitch(Front(fold), back, "inner", SITE).fit(fit)
        with pytest.raises(ValueError, match=message):
            direct_penalties(Front(fold), back, fit, held, [("inner", SITE)])
