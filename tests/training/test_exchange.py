"""Our transformer in the forms of TransformerLens and Hugging Face: equal logits, and exact round trips."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.exchange import from_huggingface, from_transformer_lens, to_huggingface, to_transformer_lens
from models.exchange.shape import shape_of
from tests.helpers.foreign import SHAPES, published_config, random_net

TOKENS = torch.randint(61, (3, 24), generator=torch.Generator().manual_seed(0))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        output = model(TOKENS)
    return getattr(output, "logits", output)


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_transformer_lens(name: str) -> None:
    lens = pytest.importorskip("transformer_lens", reason='needs pip install -e ".[bench]"')
    net = random_net(SHAPES[name])
    state, config = to_transformer_lens(net)
    hooked = lens.HookedTransformer(lens.HookedTransformerConfig.from_dict({**config, "device": "cpu"}))
    hooked.load_and_process_state_dict(
        dict(state), fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    assert logits(net).std() > 0.5, "logits that hardly differ would agree whatever the weights"
    torch.testing.assert_close(logits(hooked), logits(net), rtol=0, atol=1e-4)
    # what TransformerLens itself saves: its own config, masks and rotary tables among the weights
    back = from_transformer_lens(hooked.state_dict(), hooked.cfg.to_dict())
    torch.testing.assert_close(logits(back), logits(hooked), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_conversion_there_and_back_is_exact(name: str) -> None:
    net = random_net(SHAPES[name])
    state, config = to_transformer_lens(net)
    back = from_transformer_lens(state, config)
    assert shape_of(back) == SHAPES[name]
    assert back.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(weight, back.state_dict()[key]) for key, weight in net.state_dict().items())
    again, _ = to_transformer_lens(back)
    assert again.keys() == state.keys() and all(torch.equal(again[key], state[key]) for key in state)
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state), "copies, not views of one another"


@pytest.mark.parametrize("name", ["solu", "gelu"])
def test_a_published_config_and_the_buffers_beside_its_weights_are_read(name: str) -> None:
    net = random_net(SHAPES[name])
    state, _ = to_transformer_lens(net)
    del state["unembed.b_U"]  # the published ones have none
    masks = {f"blocks.{i}.attn.{key}": torch.ones(1) for i in range(2) for key in ("mask", "IGNORE")}
    back = from_transformer_lens({**state, **masks}, published_config(SHAPES[name]))
    assert torch.equal(logits(back), logits(net)) and back.unembed.bias is None


def test_weights_in_half_precision_are_run_in_float32() -> None:
    state, config = to_transformer_lens(random_net(SHAPES["gelu"]))
    back = from_transformer_lens({key: tensor.bfloat16() for key, tensor in state.items()}, config)
    assert {weight.dtype for weight in back.parameters()} == {torch.float32}


def test_folded_layer_norms_have_scale_one() -> None:
    state, config = to_transformer_lens(random_net(SHAPES["solu"]))
    bare = {key: tensor for key, tensor in state.items() if ".ln" not in key and not key.startswith("ln")}
    back = from_transformer_lens(bare, {**config, "normalization_type": "LNPre"})
    assert all((weight == 1).all() for key, weight in back.named_parameters() if "ln" in key and key.endswith("weight"))
    with pytest.raises(ValueError, match=r"blocks\.0\.ln1\.w is missing.*more faults"):
        from_transformer_lens(bare, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shortformer_pos": True}, "shortformer_pos=True, expected False"),
        ({"normalization": "RMS"}, "normalization=RMS, expected LN or LNPre"),
        ({"act_fn": "swish"}, "act_fn=swish, expected one of solu_ln, solu, gelu"),
        ({"ln_eps": 1e-6}, "ln_eps=1e-06, expected 1e-05"),
        ({"n_heads": 2}, r"d_model=32, d_head=8, n_heads=2, expected n_heads \* d_head"),
        ({"d_vocab": None}, "no d_vocab; expected the keys of TransformerLens's config.json"),
        ({"d_mlp": 95}, r"blocks\.0\.mlp\.\S+ is \(\S+ ?\d*\), expected"),
        ({"attn_only": True}, r"blocks\.0\.mlp\.W_in is unexpected"),
        ({"n_layers": 3}, r"blocks\.2\.attn\.W_Q is missing"),
    ],
)
def test_features_that_our_transformer_lacks_are_named(change: dict[str, Any], message: str) -> None:
    state, _ = to_transformer_lens(random_net(SHAPES["gelu"]))
    with pytest.raises(ValueError, match=message):
        from_transformer_lens(state, published_config(**change))


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "relu", "pythia", "rotary, one after the other"])
def test_logits_are_those_of_hugging_face_there_and_back(name: str) -> None:
    pytest.importorskip("transformers")
    net = random_net(SHAPES[name])
    exported = to_huggingface(net)
    assert type(exported).__name__ == ("GPT2LMHeadModel" if SHAPES[name].d_rotary is None else "GPTNeoXForCausalLM")
    assert logits(net).std() > 0.5
    torch.testing.assert_close(logits(exported), logits(net), rtol=0, atol=1e-4)
    back = from_huggingface(exported)
    assert shape_of(back) == SHAPES[name]
    assert all(torch.equal(weight, back.state_dict()[key]) for key, weight in net.state_dict().items())


def test_a_model_that_transformers_made_becomes_ours() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=61, n_positions=24, n_embd=32, n_layer=2, n_head=4)
    gpt2 = transformers.GPT2LMHeadModel(config).eval()  # its unembedding is its embedding
    with torch.no_grad():
        for weight in gpt2.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    torch.testing.assert_close(logits(from_huggingface(gpt2)), logits(gpt2), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("solu", "no class for SoLU"),
        ("attn_only", "no class for a model without MLPs"),
        ("a bias on the logits", "no class for a bias on the logits"),
    ],
)
def test_models_without_a_class_in_hugging_face_are_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_huggingface(random_net(SHAPES[name]))


def test_other_modules_are_rejected() -> None:
    transformers = pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="expected a models.transformer.Transformer .* found Linear"):
        to_transformer_lens(nn.Linear(2, 2))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=61, **sizes))
    with pytest.raises(ValueError, match="expected a GPT2LMHeadModel or a GPTNeoXForCausalLM.*BertModel"):
        from_huggingface(bert)
    other = transformers.GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2, layer_norm_epsilon=1e-6)
    with pytest.raises(ValueError, match="layer_norm_epsilon=1e-06, expected 1e-05"):
        from_huggingface(transformers.GPT2LMHeadModel(other))
