"""Sites: each architecture's table against what the model computes, globs, module paths, pairs of unequal depth."""

import math
import re
from collections import OrderedDict
from copy import deepcopy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from dissimilarity.capture.enter import enterable_sites
from dissimilarity.capture.hooks import capture
from dissimilarity.capture.points import ModulePoint
from dissimilarity.capture.site_names import describe, matched_pairs
from dissimilarity.capture.sites import locate, resolve, site_table
from dissimilarity.comparison.compare import compare
from dissimilarity.measures.cka import CKA
from models.transformer import Transformer
from tests.helpers.tiny_transformers import tiny_model

torch.set_num_threads(1)

SIZES: dict[str, Any] = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, vocab_size=50
)
HF_MODELS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=3, n_head=4, n_positions=16)
    ),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**SIZES, max_position_embeddings=16)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, max_position_embeddings=16)),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES, num_key_value_heads=2)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES, num_key_value_heads=2)),
    "phi": lambda: transformers.PhiForCausalLM(transformers.PhiConfig(**SIZES)),
    "bloom": lambda: transformers.BloomForCausalLM(
        transformers.BloomConfig(vocab_size=50, hidden_size=32, n_layer=3, n_head=4)
    ),
    "falcon": lambda: transformers.FalconForCausalLM(
        transformers.FalconConfig(vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4)
    ),
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            ffn_dim=64,
            word_embed_proj_dim=32,
        )
    ),
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, max_position_embeddings=16)),
    "bare_bert": lambda: transformers.BertModel(transformers.BertConfig(**SIZES, max_position_embeddings=16)),
}


def toy(**choices: Any) -> Transformer:
    defaults: dict[str, Any] = dict(d_model=16, n_layers=2, d_head=8, n_ctx=8, d_vocab=20, activation=nn.GELU)
    return Transformer(**defaults | choices)


@pytest.mark.parametrize("name", HF_MODELS)
def test_resid_post_is_the_stream_before_any_final_norm(name):
    torch.manual_seed(0)
    model = HF_MODELS[name]().eval()
    with torch.no_grad():
        # A norm that is not the identity, so that reading the stream after it would show.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tokens = torch.randint(0, 50, (2, 9))
    with torch.no_grad():
        hidden = model(input_ids=tokens, output_hidden_states=True).hidden_states
    with capture(model, ["blocks.*.resid_pre", "blocks.*.resid_post"]) as acts:
        model(input_ids=tokens)
    assert len(hidden) == 4
    for layer in range(3):
        assert torch.equal(acts[f"blocks.{layer}.resid_pre"], hidden[layer])
        if layer < 2:
            assert torch.equal(acts[f"blocks.{layer}.resid_post"], hidden[layer + 1])
    last = acts["blocks.2.resid_post"]
    if "bert" in name:
        assert torch.equal(last, hidden[3])
    else:
        assert not torch.allclose(last, hidden[3], atol=1e-2)
        with capture(model, "ln_final") as final:
            model(input_ids=tokens)
        assert torch.equal(final["ln_final"], hidden[3])


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "phi"])
def test_the_parts_of_a_block_add_up(name):
    torch.manual_seed(0)
    model = HF_MODELS[name]().eval()
    with capture(model, "blocks.1.*") as acts:
        model(torch.randint(0, 50, (2, 9)))
    total = sum(acts[f"blocks.1.{part}"] for part in ("resid_pre", "attn_out", "mlp_out"))
    torch.testing.assert_close(total, acts["blocks.1.resid_post"])
    assert acts["blocks.1.mlp.pre"].shape == acts["blocks.1.mlp.post"].shape
    if name in ("gpt_neox", "phi"):
        assert "blocks.1.resid_mid" not in acts
    else:
        torch.testing.assert_close(acts["blocks.1.resid_pre"] + acts["blocks.1.attn_out"], acts["blocks.1.resid_mid"])


def test_sequential_gpt_neox_has_resid_mid():
    model = transformers.GPTNeoXModel(transformers.GPTNeoXConfig(**SIZES, use_parallel_residual=False))
    assert "blocks.2.resid_mid" in site_table(model)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, 1e30])
def test_names_do_not_depend_on_what_became_of_the_weights(value):
    net: Any = toy()
    expected = site_table(toy())
    with torch.no_grad():
        net.blocks[1].attn.W_O.weight.fill_(value)
        net.blocks[0].mlp.W_out.weight.fill_(value)
    assert site_table(net) == expected and len(enterable_sites(net)) == 8


def test_other_names_do_not_hold_where_something_is_in_between():
    granite, convolved = tiny_model("granite"), tiny_model("deberta-v2", conv_kernel_size=3)
    assert list(site_table(granite))[1:3] == ["blocks.0.resid_pre", "blocks.0.resid_post"]
    assert site_table(convolved)["blocks.0.resid_post"] == ModulePoint("deberta.encoder.layer.1", "input")
    assert "blocks.0.mlp_out" not in site_table(convolved) and "blocks.1.mlp_out" in site_table(convolved)
    assert "blocks.0.resid_pre" not in enterable_sites(convolved)
    assert "blocks.1.resid_pre" in enterable_sites(convolved)


def test_scales_that_are_one_at_first_count():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.mlp = nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Sequential(nn.Linear(8, 8))
            self.scale = nn.Parameter(torch.ones(8))

        def forward(self, x):
            x = self.scale * x + self.attention(x)
            return x + self.mlp(x)

    model = nn.Sequential(OrderedDict(embed=nn.Embedding(9, 8), blocks=nn.Sequential(Scaled(), Scaled())))
    assert list(site_table(model)) == [
        "embed",
        *(f"blocks.{i}.resid_{end}" for i in range(2) for end in ("pre", "post")),
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_names_are_the_same_in_any_precision(dtype):
    for model_type in ("llama", "granite", "bert"):
        expected = site_table(tiny_model(model_type))
        assert site_table(tiny_model(model_type).to(dtype)) == expected


def test_a_model_that_adapts_to_short_inputs_stays_as_it_was():
    sizes: dict[str, Any] = SIZES | {"max_position_embeddings": 64, "block_size": 4, "num_random_blocks": 1}
    model = transformers.BigBirdModel(transformers.BigBirdConfig(**sizes, attention_type="block_sparse")).eval()
    tokens = torch.randint(50, (4, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(tokens).last_hidden_state
        with capture(model, list(site_table(model))):
            model(tokens[:, :6])  # in full attention, to which BigBird would keep
        assert torch.equal(model(tokens).last_hidden_state, expected)


def test_a_model_that_adapts_to_long_inputs_stays_as_it_was():
    """Dynamic rotary embeddings replace their buffers where a text is longer than any before."""
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    sizes: dict[str, Any] = SIZES | {"max_position_embeddings": 8, "rope_scaling": scaling}
    model = transformers.LlamaModel(transformers.LlamaConfig(**sizes)).eval()
    tokens = torch.randint(50, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(tokens[:, :12]).last_hidden_state
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with capture(model, ["blocks.0.resid_post"]):
            model(tokens)
        assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
        assert torch.equal(model(tokens[:, :12]).last_hidden_state, expected)


class Holder(nn.Module):
    def __init__(self, **networks: nn.Module):
        super().__init__()
        for name, network in networks.items():
            setattr(self, name, network)


def test_the_table_is_in_depth_order_inside_any_wrapper():
    table = site_table(Holder(net=toy(n_layers=11)))
    assert next(iter(table)) == "embed" and list(table)[-1] == "ln_final"
    assert table["blocks.10.resid_post"] == ModulePoint("net.blocks.10", "output")
    layers = [int(site.split(".")[1]) for site in table if site.startswith("blocks")]
    assert layers == sorted(layers)
    assert (
        list(table).index("blocks.3.resid_pre")
        < list(table).index("blocks.3.mlp.pre")
        < list(table).index("blocks.3.resid_post")
    )


def test_two_networks_keep_their_names_apart():
    pair = Holder(net=toy(), teacher=toy())
    table = site_table(pair)
    assert table["teacher.blocks.1.resid_post"] == ModulePoint("teacher.blocks.1", "output")
    wrapped = site_table(Holder(model=pair))
    assert wrapped.keys() == table.keys()
    assert wrapped["teacher.blocks.1.resid_post"] == ModulePoint("model.teacher.blocks.1", "output")
    assert "blocks.1.resid_post" not in table


def test_wrapped_blocks_keep_their_names():
    model: Any = toy()
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    assert list(site_table(model)) == list(site_table(toy()))
    compiled: Any = torch.compile(model, backend="eager")
    assert list(site_table(compiled)) == list(site_table(toy()))


def test_resolve_globs_in_depth_order_each_once():
    model = toy(n_layers=11)
    assert resolve(model, "blocks.*.resid_post") == [f"blocks.{i}.resid_post" for i in range(11)]
    assert resolve(model, ["ln_final", "blocks.[02].mlp_out", "embed", "blocks.2.*_out"]) == [
        "embed", "blocks.0.mlp_out", "blocks.2.attn_out", "blocks.2.mlp_out", "ln_final",
    ]  # fmt: skip


def test_module_paths_are_sites():
    model = nn.Sequential()
    model.add_module("backbone", nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4))))
    model.add_module("output", nn.Linear(4, 2))
    assert resolve(model, "backbone.*") == ["backbone.0", "backbone.1", "backbone.2"]
    assert resolve(model, ["output", "backbone.2.0.input"]) == ["backbone.2.0.input", "output"]
    assert resolve(model, "backbone.?.input") == ["backbone.0.input", "backbone.1.input", "backbone.2.input"]
    assert locate(model, ["output", "backbone.1.input"]) == {
        "output": ModulePoint("output", "output"),
        "backbone.1.input": ModulePoint("backbone.1", "input"),
    }
    assert resolve(toy(), ["blocks.0.ln1", "embed"]) == ["embed", "blocks.0.ln1"]


@pytest.mark.parametrize("patterns", ["blocks.*.resid_pst", ["embed", "blocks.7.resid_post"], "net.*"])
def test_a_pattern_without_a_match_lists_the_sites(patterns):
    with pytest.raises(ValueError, match=r"blocks\.\{0-1\}\.resid_post") as error:
        resolve(toy(), patterns)
    assert len(str(error.value)) < 600
    with pytest.raises(ValueError, match="module paths.*layers"):
        resolve(Holder(layers=nn.ModuleList([nn.Linear(2, 2)])), patterns)


def posts(n_layers: int) -> list[str]:
    return [f"blocks.{i}.resid_post" for i in range(n_layers)]


@pytest.mark.parametrize(
    ("n_a", "n_b", "expected"),
    [
        (3, 3, [0, 1, 2]),
        (2, 6, [0, 5]),
        (6, 2, [0, 0, 0, 1, 1, 1]),
        (3, 6, [0, 3, 5]),
        (4, 7, [0, 2, 4, 6]),
        (1, 4, [3]),
        (4, 1, [0, 0, 0, 0]),
        (12, 11, [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_layers_pair_at_equal_relative_depth(n_a, n_b, expected):
    pairs = matched_pairs(posts(n_a), list(reversed(posts(n_b))))
    assert pairs == [(f"blocks.{i}.resid_post", f"blocks.{j}.resid_post") for i, j in enumerate(expected)]


def test_sites_pair_with_the_same_kind():
    sites_a = ["embed", "blocks.0.mlp.mid", "blocks.0.resid_post", "blocks.1.resid_post", "ln_final"]
    sites_b = ["embed", *posts(4), "ln_final"]
    assert matched_pairs(sites_a, sites_b) == [
        ("embed", "embed"),
        ("blocks.0.resid_post", "blocks.0.resid_post"),
        ("blocks.1.resid_post", "blocks.3.resid_post"),
        ("ln_final", "ln_final"),
    ]
    assert matched_pairs(["backbone.layer1"], ["backbone.layer1", "head"]) == [("backbone.layer1", "backbone.layer1")]


def test_sites_of_one_kind_each_pair_by_depth():
    pairs = matched_pairs(posts(4), ["encoder.layers.0", "encoder.layers.1"])
    assert pairs == list(zip(posts(4), [f"encoder.layers.{i}" for i in (0, 0, 1, 1)], strict=True))


def test_a_glob_of_blocks_means_those_of_encoder_and_decoder():
    config = transformers.BartConfig(
        vocab_size=50, d_model=16, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32,
    )  # fmt: skip
    model = transformers.BartModel(config)
    encoder, decoder = ([f"{part}.{site}" for site in posts(n)] for part, n in (("encoder", 2), ("decoder", 3)))
    assert resolve(model, "blocks.*.resid_post") == [*encoder, *decoder]
    assert resolve(model, "decoder.blocks.*.resid_post") == decoder
    assert matched_pairs([*encoder, *decoder], [*encoder, *decoder]) == [(site, site) for site in [*encoder, *decoder]]


def test_sites_of_an_encoder_and_of_both_parts_have_a_glob_that_works():
    both = [f"{part}.blocks.{layer}.resid_post" for part in ("encoder", "decoder") for layer in range(2)]
    with pytest.raises(
        ValueError, match=r"no site in common.*'encoder\.blocks\.\*\.resid_post\|blocks\.\*\.resid_post'"
    ):
        matched_pairs(posts(2), both)


def test_the_first_alternative_that_matches_counts():
    plain = Holder(encoder=nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))
    assert resolve(toy(), "blocks.*.resid_post|encoder.*") == posts(2)
    assert resolve(plain, "blocks.*.resid_post|encoder.*") == ["encoder.0", "encoder.1"]
    with pytest.raises(ValueError, match=r"matches 'blocks.9.\*\|layers'"):
        resolve(toy(), "blocks.9.*|layers")


@pytest.mark.parametrize("model_type", ["xlm", "albert", "squeezebert"])
def test_a_model_without_named_sites_says_what_to_type_and_that_works(model_type):
    model, tokens = tiny_model(model_type), torch.randint(5, 60, (8, 6))
    with pytest.raises(ValueError, match="no named sites here") as error:
        compare(tiny_model("gpt2"), model, tokens)
    alone, beside = re.findall(r"sites='([^']*)'", str(error.value))
    measures = [CKA()]
    assert compare(model, model, tokens, sites=alone, measures=measures, null=False).num_rows
    assert compare(tiny_model("gpt2"), model, tokens, beside, measures, "matched", null=False).num_rows == 2


def test_weights_without_values_are_named_before_anything_runs():
    layers = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4))
    tokens = torch.randint(9, (16, 5))
    with pytest.raises(ValueError, match=r"Sequential has weights on the meta device, which hold no values; load them"):
        compare(layers, deepcopy(layers).to("meta"), tokens, "1")


def test_no_common_site_lists_both_models():
    with pytest.raises(ValueError, match=r"blocks\.\{0-1\}\.resid_post.*backbone\.layer1"):
        matched_pairs(posts(2), ["backbone.layer1", "head"])


def test_describe_is_short():
    assert describe(["embed", *posts(12), "ln_final"]) == "embed, blocks.{0-11}.resid_post, ln_final"
    assert describe([f"m{i}" for i in range(40)]).endswith("m15, and 24 kinds more")


class Branches(nn.Module):
    """Blocks that return only what they add to the stream, in a model that takes texts of one length."""

    def __init__(self, takes: int, table: bool) -> None:
        super().__init__()
        self.takes, self.embed = takes, nn.Embedding(50, 8)
        if table:
            self.positions = nn.Parameter(torch.randn(takes, 8))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(3))
        self.ln_final = nn.LayerNorm(8)
        self.streams: list[Tensor] = []

    def forward(self, tokens: Tensor) -> Tensor:
        assert tokens.shape[1] == self.takes
        x = self.embed(tokens) + (self.positions if hasattr(self, "positions") else 0)
        self.streams = [x]
        for block in self.blocks:
            x = x + block(x)
            self.streams.append(x)
        return self.ln_final(x)


@pytest.mark.parametrize("takes", [2, 7])
def test_a_model_of_one_length_is_tried_at_that_length(takes: int) -> None:
    """Its weights show the length; blocks that return a branch have no names, as in models of any length."""
    assert not site_table(Branches(takes, table=True))


def test_a_model_of_a_hidden_length_is_read_where_the_next_block_reads() -> None:
    torch.manual_seed(0)
    net = Branches(7, table=False)
    sites = [f"blocks.{number}.resid_post" for number in range(3)]
    with capture(net, sites) as acts:
        net(torch.randint(50, (5, 7)))
    for site, stream in zip(sites, net.streams[1:], strict=True):
        assert torch.equal(acts[site], stream), site
