"""Identity stitching by depth: both ends are known, and in between it is what `enter` gives."""

from typing import Any

import pytest
import torch
import transformers

from dissimilarity.capture.enter import enter
from dissimilarity.capture.hooks import capture
from dissimilarity.stitching.block_swap import front_sites, front_streams, fronted
from models.classifier import Classifier
from models.huggingface import HuggingFace
from tests.instrument.capture.test_enter import net, tokens

SIZES: dict[str, Any] = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, max_position_embeddings=16
)
BERT = dict(model_type="bert", vocab_size=61, **SIZES)


def classifier(name: str, seed: int) -> Classifier:
    """Return three blocks under a head, every weight away from its initial value; one model per seed."""
    body = HuggingFace(config=BERT, head=False, d_vocab=61) if name == "bert" else net(name)
    model = Classifier(body, 3, "mean", pad=0, end_is_pad=False, head_seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def logits(model: torch.nn.Module, probe: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(probe)


@pytest.mark.parametrize("name", ["gelu", "solu", "pythia"])
def test_with_all_blocks_from_the_front_only_the_head_is_the_backs(name: str) -> None:
    front, back, probe = classifier(name, 1), classifier(name, 2), tokens().clamp(1)
    outputs = fronted(back, front_streams(front, probe), probe)
    assert outputs.shape == (4, len(probe), 3)
    mixed = classifier(name, 1)
    mixed.head.load_state_dict(back.head.state_dict())
    mixed.net.ln_final.load_state_dict(back.net.ln_final.state_dict())
    assert torch.allclose(outputs[-1], logits(mixed, probe), atol=1e-5)
    assert not torch.allclose(outputs[-1], logits(back, probe), atol=1e-2)


@pytest.mark.parametrize("name", ["gelu", "solu", "pythia"])
def test_without_a_block_from_the_front_and_with_equal_embeddings_the_back_is_unchanged(name: str) -> None:
    front, back, probe = classifier(name, 1), classifier(name, 2), tokens().clamp(1)
    assert not torch.allclose(fronted(back, front_streams(front, probe), probe)[0], logits(back, probe), atol=1e-2)
    for front_weight, back_weight in zip(front.net.named_parameters(), back.net.named_parameters(), strict=True):
        if "embed" in front_weight[0]:
            front_weight[1].data.copy_(back_weight[1].data)
    assert torch.allclose(fronted(back, front_streams(front, probe), probe)[0], logits(back, probe), atol=1e-6)


@pytest.mark.parametrize("name", ["gelu", "pythia", "bert"])
def test_with_itself_every_depth_gives_its_own_logits(name: str) -> None:
    """Also of texts of different length, whose padding each model knows from the tokens."""
    model, probe = classifier(name, 1), tokens().clamp(1)
    probe[1, 4:] = probe[2, 7:] = 0
    for outputs in fronted(model, front_streams(model, probe), probe):
        assert torch.allclose(outputs, logits(model, probe), atol=1e-5)


def test_in_between_the_logits_are_those_of_entering_there() -> None:
    front, back, probe = classifier("gelu", 1), classifier("gelu", 2), tokens().clamp(1)
    assert front_sites(back) == ["blocks.0.resid_pre", *(f"blocks.{i}.resid_post" for i in range(3))]
    with capture(front, "blocks.1.resid_post") as acts:
        front(probe)
    expected = enter(back, "blocks.1.resid_post", acts["blocks.1.resid_post"], probe)
    assert torch.equal(fronted(back, front_streams(front, probe), probe)[2], expected)


def test_a_bert_is_stitched_after_its_embedding_norm() -> None:
    """Its l = 0 is the embeddings with their LayerNorm, its last stream what the pooled head reads."""
    bodies = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        bodies.append(transformers.BertModel(transformers.BertConfig(vocab_size=61, **SIZES)).eval())
    front, back = bodies
    probe = tokens()
    streams = front_streams(front, probe)
    with torch.no_grad():
        assert torch.equal(streams[0], front.embeddings(probe))
        assert torch.equal(streams[-1], front(probe).last_hidden_state)
    outputs = fronted(back, streams, probe)
    assert torch.equal(outputs[-1], streams[-1])
    back.embeddings.load_state_dict(front.embeddings.state_dict())
    with torch.no_grad():
        assert torch.allclose(fronted(back, streams, probe)[0], back(probe).last_hidden_state, atol=1e-6)


def test_models_of_other_depth_and_of_unknown_architecture_are_rejected() -> None:
    probe = tokens().clamp(1)
    streams = front_streams(classifier("gelu", 1), probe)
    with pytest.raises(ValueError, match="equally many blocks, found 2 in front and 3 in the back"):
        fronted(classifier("gelu", 2), streams[:-1], probe)
    with pytest.raises(ValueError, match="blocks.0.resid_pre and blocks.*.resid_post, found none"):
        front_streams(torch.nn.Linear(2, 2), probe)
