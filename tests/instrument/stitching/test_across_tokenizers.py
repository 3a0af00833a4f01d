"""Direct stitches between models of other tokenizers: planted maps, losses by hand, and where there is none."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from data.tokenizers import BytePairs
from dissimilarity import capture
from dissimilarity.loading.texts import encoded, texts_of
from dissimilarity.probe.alignment import Alignment, Tokenized, align
from dissimilarity.stitching import aligned_penalties
from tests.helpers.other_tokenizers import word_pieces
from tests.helpers.tiny_text import tiny_texts
from tests.instrument.probe.test_alignment import Summing

SITE = "blocks.0.resid_post"
DIM = 16


class Predicting(Summing):
    """A `Summing` that also predicts from its last stream, however badly."""

    def __init__(self, tokenizer: Tokenizer, turn: Tensor | None = None) -> None:
        super().__init__(tokenizer)
        generator = torch.Generator().manual_seed(7)
        self.ln_final = nn.Identity()
        self.unembed = nn.Linear(DIM, tokenizer.get_vocab_size(), dtype=torch.float64)
        nn.init.normal_(self.unembed.weight, std=2, generator=generator)
        if turn is not None:
            self.embed.weight.data = self.embed.weight @ turn

    def forward(self, tokens: Tensor) -> Tensor:
        return self.unembed(self.ln_final(super().forward(tokens)))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [re.sub("[^ -~\n]", "e", text) for text in tiny_texts()]


@pytest.fixture(scope="module")
def tokenizers(texts: list[str]) -> tuple[Tokenizer, Tokenizer]:
    return BytePairs(300).build(texts), BytePairs(420).build(texts[:40])


@pytest.fixture(scope="module")
def read(texts: list[str], tokenizers: tuple[Tokenizer, Tokenizer]) -> tuple[Alignment, Alignment]:
    """Return text to fit on and text held out, read by a front and a back model."""
    tokenizer, other_tokenizer = tokenizers
    ids = [number for text in texts for number in tokenizer.encode(text).ids]
    tokens = torch.tensor(ids[: 60 * 40]).view(60, 40)
    parts = []
    for part in (tokens[:40], tokens[40:]):
        texts, spans = texts_of(part, tokenizer)
        parts.append(align(Tokenized(part, spans), Tokenized(*encoded(texts, other_tokenizer)), texts))
    return parts[0], parts[1]


def test_one_net_in_another_basis_and_other_tokens_costs_nothing(read: Any, tokenizers: Any) -> None:
    turn = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    front, back = Predicting(tokenizers[0], turn), Predicting(tokenizers[1])
    (result,) = aligned_penalties(front, back, read[0], read[1], [(SITE, SITE)]).values()
    assert result.r2 == pytest.approx(1, abs=1e-9) and result.value == pytest.approx(0, abs=1e-6)
    assert result.loss_mean > result.loss_back + 0.1 and result.note == ""
    assert result.share == read[1].share_b and result.sequences == len(read[1].a)


@pytest.mark.parametrize("kind", ["affine", "orthogonal"])
def test_the_cost_is_that_of_the_back_model_with_the_mapped_stream_in_those_places(
    read: Any, tokenizers: Any, kind: Any
) -> None:
    """The front model forgets: its stream is that of the token alone."""
    front, back = Predicting(tokenizers[0]), Predicting(tokenizers[1])
    front.blocks[0] = nn.Identity()
    (result,) = aligned_penalties(front, back, read[0], read[1], [(SITE, SITE)], kind).values()
    assert 0 < result.r2 < 0.9 and result.value > 0.01 and 0 < result.stderr < result.value
    streams = []
    for alignment in read:
        rows = []
        for net, reading in ((front, alignment.a), (back, alignment.b)):
            with capture(net, SITE) as acts:
                net(reading.tokens)
            rows.append(acts[SITE].take_along_dim(reading.last[..., None], 1))
        streams.append(rows)
    (x, y), (x_out, y_out) = streams
    mean_x, mean_y = x.mean((0, 1)), y.mean((0, 1))
    centered = (x - mean_x).flatten(0, 1)
    cross = centered.T @ (y - mean_y).flatten(0, 1)
    if kind == "affine":
        assert result.ridge is not None
        squares = centered.T @ centered
        weight = torch.linalg.solve(squares + result.ridge * squares.trace() / DIM * torch.eye(DIM), cross)
    else:
        u, _, v = torch.linalg.svd(cross)
        weight = u @ v
    mapped = (x_out - mean_x) @ weight + mean_y
    error, total = (y_out - mapped).square().sum(), (y_out - mean_y).square().sum()
    assert result.r2 == pytest.approx(float(1 - error / total), abs=1e-6)
    reading = read[1].b
    with capture(back, SITE) as acts:
        back(reading.tokens)
    losses = []
    for put in (None, mapped, mean_y.expand_as(mapped)):
        per_sequence = []
        for row in range(len(reading)):
            stream = acts[SITE][row].clone()
            if put is not None:
                stream[reading.last[row]] = put[row]
            logits = back.unembed(back.blocks[1](stream[None]))[0]
            targets = [(at, at + 1) for at in reading.last[row].tolist() if reading.mask[row].sum() > at + 1]
            at, behind = (torch.tensor(places) for places in zip(*targets, strict=True))
            per_sequence.append(F.cross_entropy(logits[at], reading.tokens[row, behind]).item())
        losses.append(torch.tensor(per_sequence))
    assert result.loss_back == pytest.approx(float(losses[0].mean()), abs=1e-5)
    assert result.loss_stitched == pytest.approx(float(losses[1].mean()), abs=1e-5)
    assert result.loss_mean == pytest.approx(float(losses[2].mean()), abs=1e-5)
    assert result.value == pytest.approx(float((losses[1] - losses[0]).mean()), abs=1e-5)


def test_a_model_that_reads_ahead_or_predicts_nothing_has_a_fit_and_no_loss(texts: Any, tokenizers: Any) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tokenizer, other_tokenizer = tokenizers[0], word_pieces()
    size = {
        "vocab_size": other_tokenizer.get_vocab_size(),
        "hidden_size": DIM,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
    }
    encoder = transformers.BertModel(transformers.BertConfig(num_attention_heads=2, **size)).eval()
    ids = [number for text in texts for number in tokenizer.encode(text).ids]
    tokens = torch.tensor(ids[: 24 * 40]).view(24, 40)
    texts, spans = texts_of(tokens, tokenizer)
    text = align(Tokenized(*encoded(texts, other_tokenizer)), Tokenized(tokens, spans), texts)
    fit, held_out = text.part(range(14)), text.part(range(14, len(text.a)))
    (result,) = aligned_penalties(encoder, Predicting(tokenizer), fit, held_out, [(SITE, SITE)]).values()
    assert result.r2 == result.r2 and result.value != result.value and "the front model reads ahead" in result.note
    there = fit.swapped(), held_out.swapped()
    (result,) = aligned_penalties(Predicting(tokenizer), encoder, there[0], there[1], [(SITE, SITE)]).values()
    assert result.value != result.value and "does not return a logit for each token" in result.note


def test_stitches_that_cannot_be_fitted_are_rejected(read: Any, tokenizers: Any) -> None:
    front, back = Predicting(tokenizers[0]), Predicting(tokenizers[1])
    fit, held_out = read
    with pytest.raises(
        ValueError, match="one of the kinds scale_shift, orthogonal, low_rank, affine across tokenizers"
    ):
        aligned_penalties(front, back, fit, held_out, [(SITE, SITE)], "identity")
    with pytest.raises(ValueError, match="at least 10 sequences to fit on and 2 held out, found 9 and"):
        aligned_penalties(front, back, fit.part(range(9)), held_out, [(SITE, SITE)])
    with pytest.raises(ValueError, match="cannot be entered at 'blocks.0.mlp_out'"):
        aligned_penalties(front, back, fit, held_out, [(SITE, "blocks.0.mlp_out")])
