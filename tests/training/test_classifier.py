"""The classifier: padding, the input of its head, possible bodies, and its sites."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dissimilarity import capture
from dissimilarity.capture.enter import enter, enterable_sites
from dissimilarity.probe.pooling import pool, real_positions
from models import references
from models.classifier import Classifier, sees_ahead
from models.initial_model import initial_model, load_into
from tests.helpers.families import FAMILIES, family_net
from tests.helpers.other_tokenizers import bert, llama, word_pieces

PAD = 0


def rows(*texts: list[int], length: int = 9) -> Tensor:
    """Return rows of tokens in which the end and the padding are the same token."""
    return torch.tensor([text + [PAD] * (length - len(text)) for text in texts])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> references.Reference:
    """Return a BERT with random weights."""
    return references.load(f"hf:{bert(tmp_path_factory.mktemp('bert') / 'bert', word_pieces())}")


def body_of(reference: references.Reference) -> nn.Module:
    """Return the net that a run trains from this reference."""
    from models.build import build_net

    initial = initial_model(reference, head=False)
    settings = {key: value for key, value in initial.settings.items() if key != "d_vocab"}
    net = build_net(settings, initial.settings["d_vocab"], 1)
    load_into(net, initial.weights)
    return net


def classifier_of(body: nn.Module, pooling: str = "last", end_is_pad: bool = True) -> Classifier:
    return Classifier(body, 3, pooling, PAD, end_is_pad, head_seed=5).eval()


def test_a_text_ends_with_the_first_of_its_trailing_end_tokens() -> None:
    tokens = rows([5, 0, 7, 0], [1, 2, 3, 4, 5, 6, 7, 8, 9], [], [4, 3, 2, 1, 9, 8, 7, 6, 0])
    assert real_positions(tokens, PAD, True).int().tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0, 0],  # the end inside, between two texts, is text
        [1] * 9,
        [1] + [0] * 8,
        [1] * 9,
    ]
    assert torch.equal(real_positions(tokens, PAD, False), tokens != PAD)


def test_pooling_takes_a_row_of_the_stream_or_the_mean_of_the_real_ones() -> None:
    real = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    stream = torch.randn(3, 4, 5)
    expected = {
        "last": [stream[0, 2], stream[1, 0], stream[2, 3]],
        "first": [stream[0, 0], stream[1, 0], stream[2, 0]],
        "mean": [stream[0, :3].mean(0), stream[1, 0], stream[2].mean(0)],
    }
    for pooling, one_by_one in expected.items():
        torch.testing.assert_close(pool(stream, real, pooling), torch.stack(one_by_one))
    with pytest.raises(ValueError, match="pooling=max: expected one of "):
        pool(stream, real, "max")


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_how_much_padding_follows_changes_no_logit(family: str, pooling: str) -> None:
    model = classifier_of(family_net(family), pooling)
    texts = ([5, 0, 7, 0], [1, 2, 3, 4, 5, 0])
    torch.testing.assert_close(model(rows(*texts, length=7)), model(rows(*texts, length=20)))
    alone = torch.cat([model(torch.tensor([text])) for text in texts])
    torch.testing.assert_close(model(rows(*texts)), alone)


@pytest.mark.parametrize("pooling", ["last", "first", "mean"])
def test_an_encoder_sees_no_padding(encoder: references.Reference, pooling: str) -> None:
    model = classifier_of(body_of(encoder), pooling, end_is_pad=False)
    tokens = torch.tensor([[2, 9, 8, 7, 3], [2, 11, 12, 13, 3]])
    padded = torch.cat([tokens, torch.zeros(2, 6, dtype=torch.int64)], 1)
    torch.testing.assert_close(model(padded), model(tokens))
    without_mask = model.net.model(input_ids=padded).last_hidden_state
    assert (without_mask[:, :5] - model.net.features(tokens, tokens > 0)).abs().max() > 1e-3  # the mask matters here


def test_a_body_of_hugging_face_gives_what_the_model_itself_gives(encoder: references.Reference) -> None:
    tokens = torch.tensor([[2, 9, 8, 7, 3, 0, 0], [2, 11, 12, 13, 14, 15, 3]])
    hf_model: Any = encoder.model
    expected = hf_model(input_ids=tokens, attention_mask=(tokens != 0).long()).last_hidden_state
    net: Any = body_of(encoder).eval()
    torch.testing.assert_close(net.features(tokens, tokens != 0), expected)


def test_a_decoder_of_hugging_face_continues_as_language_model_or_as_body(tmp_path: Path) -> None:
    from models.build import build_net

    reference = references.load(f"hf:{llama(tmp_path / 'llama', word_pieces())}")
    tokens = torch.randint(3, 100, (2, 6))
    hf_model: Any = reference.model
    initial = initial_model(reference, head=True)
    net = build_net({k: v for k, v in initial.settings.items() if k != "d_vocab"}, initial.settings["d_vocab"], 1)
    load_into(net, initial.weights)
    torch.testing.assert_close(net(tokens), hf_model(tokens).logits)
    body: Any = body_of(reference)
    assert not sees_ahead(body)
    hidden = hf_model(tokens, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(body.features(tokens, tokens > 0), hidden)


def test_the_first_position_is_read_only_of_models_that_look_ahead(encoder: references.Reference) -> None:
    assert sees_ahead(body_of(encoder))
    with pytest.raises(ValueError, match="task.pooling=first: this model reads from left to right.*task.pooling=last"):
        classifier_of(family_net("gelu"), "first")


def test_the_body_makes_no_logits_of_tokens_and_the_head_follows_its_own_seed() -> None:
    one, other = (Classifier(family_net("solu"), 2, "last", PAD, True, head_seed=seed) for seed in (0, 1))
    assert not [name for name, _ in one.named_parameters() if "unembed" in name]
    assert not torch.equal(one.head.weight, other.head.weight) and one.head.bias.eq(0).all()
    assert all(torch.equal(a, b) for a, b in zip(one.net.parameters(), other.net.parameters(), strict=True))
    assert one.head.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_a_net_that_cannot_be_a_body_is_rejected_with_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="expected Linear to have its width `d_model` and a method `features"):
        Classifier(nn.Linear(2, 2), 2, "last", PAD, True)


@pytest.mark.parametrize("kind", ["ours", "bert"])
def test_sites_are_read_and_entered_through_the_wrapper(kind: str, encoder: references.Reference) -> None:
    body = family_net("solu", width=64) if kind == "ours" else body_of(encoder)
    model = classifier_of(body, end_is_pad=kind == "ours")
    tokens = rows([5, 9, 7, 0], [1, 2, 3, 4, 5, 0])
    whole = model(tokens)
    sites = enterable_sites(model)
    assert {"embed", "blocks.0.resid_pre", "blocks.0.resid_post", "blocks.1.resid_post"} <= set(sites)
    with capture(model, sites) as acts:
        model(tokens)
    for site in sites:
        assert acts[site].shape == (2, 9, model.head.in_features)
        torch.testing.assert_close(enter(model, site, acts[site], tokens), whole.detach(), msg=site)
    changed = acts["blocks.0.resid_post"] * 2
    assert not torch.allclose(enter(model, "blocks.0.resid_post", changed, tokens), whole)
