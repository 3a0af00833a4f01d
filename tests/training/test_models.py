"""The transformer and its families: shapes, causality, parity with independent computations, initial weights."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from dissimilarity.capture.sites import site_table
from models.build import build_net
from models.rotary import Rotary
from models.solu import SoLU, solu
from models.transformer import MLP, Transformer
from tests.helpers.families import FAMILIES, family_config, family_net

D_VOCAB = 61


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def tokens(batch=3, length=24, seed=0):
    return torch.randint(D_VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def perturb(net, seed=0):
    """Set every parameter to random values, so that no bias or scale stays at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return net


def test_the_six_families_exist_and_are_named_after_their_files():
    assert FAMILIES == ["attn_only", "gelu", "pythia", "relu", "solu", "solu_no_ln"]
    assert all(family_config(family)["family"] == family for family in FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("width", "depth"), [(64, 1), (192, 3)])
def test_shapes(family, width, depth):
    net = family_net(family, width=width, depth=depth)
    assert net(tokens(2, 7)).shape == (2, 7, D_VOCAB)
    assert len(net.blocks) == depth
    assert net.embed.weight.shape == (D_VOCAB, width)
    if family != "attn_only":
        assert net.blocks[0].mlp.W_in.weight.shape == (4 * width, width)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameter_count_is_12_l_d_squared_and_the_rest(family):
    d, depth, n_ctx = 128, 2, 24
    blocks = depth * (4 * d * d + 4 * d + 2 * d)
    if family != "attn_only":
        blocks += depth * (8 * d * d + 5 * d + 2 * d)
    if family == "solu":
        blocks += depth * 2 * 4 * d
    positions = 0 if family == "pythia" else n_ctx * d
    expected = blocks + 2 * D_VOCAB * d + positions + 2 * d
    assert sum(p.numel() for p in family_net(family).parameters()) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_future_tokens_do_not_change_past_logits(family):
    net = perturb(family_net(family)).eval()
    before = tokens()
    after = before.clone()
    after[:, 13:] = (after[:, 13:] + 1) % D_VOCAB
    with torch.no_grad():
        a, b = net(before), net(after)
    torch.testing.assert_close(a[:, :13], b[:, :13], rtol=0, atol=1e-6)
    assert (a[:, 13:] - b[:, 13:]).abs().amax() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_matter(family):
    net = perturb(family_net(family)).eval()
    one = torch.tensor([[5, 9, 7, 7]])
    other = torch.tensor([[9, 5, 7, 7]])
    with torch.no_grad():
        assert (net(one)[0, -1] - net(other)[0, -1]).abs().max() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sequence_that_is_too_long_is_rejected(family):
    with pytest.raises(ValueError, match=r"25 tokens.*n_ctx=24"):
        family_net(family)(tokens(1, 25))


@pytest.mark.parametrize(("width", "legal"), [(100, "width=64 or width=128"), (40, "type width=64$")])
def test_a_width_that_does_not_split_into_heads_names_the_nearest(width, legal):
    with pytest.raises(ValueError, match=rf"width {width} .*d_head=64.*{legal}"):
        family_net("solu", width=width)


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_are_those_that_capture_finds(family):
    net = family_net(family)
    assert list(net.sites) == [site for site in site_table(net) if site != "pos_embed"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_of_the_table_fires(family):
    net, fired = family_net(family), set()
    points = site_table(net)
    for name, module in net.named_modules():
        module.register_forward_hook(lambda *_, name=name: fired.add(name))
    net(tokens())
    assert {point.module for point in points.values()} <= fired


def test_solu_against_numpy():
    x = np.random.default_rng(0).normal(size=(3, 5, 7)) * 3
    share = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    np.testing.assert_allclose(solu(torch.tensor(x)).numpy(), x * share, rtol=1e-12)
    np.testing.assert_allclose(SoLU()(torch.tensor(x)).numpy(), x * share, rtol=1e-12)


def test_solu_gradient():
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(solu, (x,))


def test_solu_mlp_normalizes_between_activation_and_w_out():
    mlp = perturb(MLP(8, 32, SoLU(), norm=True)).double()
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    w = {name: p.detach().numpy() for name, p in mlp.named_parameters()}
    pre = x.numpy() @ w["W_in.weight"].T + w["W_in.bias"]
    mid = pre * np.exp(pre) / np.exp(pre).sum(-1, keepdims=True)
    unit = (mid - mid.mean(-1, keepdims=True)) / np.sqrt(mid.var(-1, keepdims=True) + 1e-5)
    out = (unit * w["ln.weight"] + w["ln.bias"]) @ w["W_out.weight"].T + w["W_out.bias"]
    np.testing.assert_allclose(mlp(x).detach().numpy(), out, rtol=1e-9, atol=1e-12)


def test_rotary_turns_planes_by_complex_numbers():
    d_rotary, length = 16, 11
    x = torch.randn(2, 3, length, 64)
    turned = Rotary(d_rotary, 32)(x)
    z = x[..., :8].numpy() + 1j * x[..., 8:16].numpy()
    angle = np.arange(length)[:, None] * 10_000.0 ** (-2 * np.arange(8) / d_rotary)
    z = z * np.exp(1j * angle)
    np.testing.assert_allclose(turned[..., :8].numpy(), z.real, atol=1e-5)
    np.testing.assert_allclose(turned[..., 8:16].numpy(), z.imag, atol=1e-5)
    torch.testing.assert_close(turned[..., 16:], x[..., 16:], rtol=0, atol=0)


def test_pythia_matches_gpt_neox():
    transformers = pytest.importorskip("transformers")
    ours = perturb(family_net("pythia")).eval()
    config = transformers.GPTNeoXConfig(
        vocab_size=D_VOCAB,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=24,
        rotary_pct=0.25,
        hidden_act="gelu",
        use_parallel_residual=True,
        tie_word_embeddings=False,
        layer_norm_eps=1e-5,
    )
    gpt_neox = transformers.GPTNeoXForCausalLM(config).eval()
    state = {
        "gpt_neox.embed_in.weight": ours.embed.weight,
        "gpt_neox.final_layer_norm.weight": ours.ln_final.weight,
        "gpt_neox.final_layer_norm.bias": ours.ln_final.bias,
    }
    for i, block in enumerate(ours.blocks):
        for kind in ("weight", "bias"):
            # NeoX keeps the rows head by head, within a head query, key, value; ours are the other way around.
            qkv = getattr(block.attn.W_QKV, kind).unflatten(0, (3, 2, 64)).transpose(0, 1).flatten(0, 2)
            theirs_to_ours = {
                "input_layernorm": getattr(block.ln1, kind),
                "post_attention_layernorm": getattr(block.ln2, kind),
                "attention.query_key_value": qkv,
                "attention.dense": getattr(block.attn.W_O, kind),
                "mlp.dense_h_to_4h": getattr(block.mlp.W_in, kind),
                "mlp.dense_4h_to_h": getattr(block.mlp.W_out, kind),
            }
            state |= {f"gpt_neox.layers.{i}.{name}.{kind}": value for name, value in theirs_to_ours.items()}
    missing, unexpected = gpt_neox.load_state_dict(state, strict=False)
    assert not unexpected and len([name for name in missing if name.endswith(("weight", ".bias"))]) == 1
    gpt_neox.get_output_embeddings().weight = ours.unembed.weight  # its name changed from version to version
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens()), gpt_neox(tokens()).logits, rtol=0, atol=1e-4)


def test_gelu_matches_gpt2():
    transformers = pytest.importorskip("transformers")
    ours = perturb(family_net("gelu")).eval()
    config = transformers.GPT2Config(
        vocab_size=D_VOCAB,
        n_embd=128,
        n_layer=2,
        n_head=2,
        n_positions=24,
        activation_function="gelu",
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    gpt2 = transformers.GPT2LMHeadModel(config).eval()
    state = {
        "transformer.wte.weight": ours.embed.weight,
        "transformer.wpe.weight": ours.pos_embed.weight,
        "transformer.ln_f.weight": ours.ln_final.weight,
        "transformer.ln_f.bias": ours.ln_final.bias,
        "lm_head.weight": ours.unembed.weight,
    }
    for i, block in enumerate(ours.blocks):
        for kind in ("weight", "bias"):
            norms = {"ln_1": block.ln1, "ln_2": block.ln2}
            linears = {
                "attn.c_attn": block.attn.W_QKV,
                "attn.c_proj": block.attn.W_O,
                "mlp.c_fc": block.mlp.W_in,
                "mlp.c_proj": block.mlp.W_out,
            }
            state |= {f"transformer.h.{i}.{name}.{kind}": getattr(module, kind) for name, module in norms.items()}
            for name, linear in linears.items():
                # GPT-2's Conv1D holds (in, out).
                state[f"transformer.h.{i}.{name}.{kind}"] = linear.weight.T if kind == "weight" else linear.bias
    missing, unexpected = gpt2.load_state_dict(state, strict=False)
    assert not unexpected and not [name for name in missing if "weight" in name or name.endswith(".bias")]
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens()), gpt2(tokens()).logits, rtol=0, atol=1e-4)


def test_starting_weights_have_the_published_spread():
    net = family_net("solu", width=256, depth=4, n_ctx=64)
    spread = {name: parameter.std().item() for name, parameter in net.named_parameters() if parameter.ndim > 1}
    for name, std in spread.items():
        expected = 0.02
        if name == "pos_embed.weight":
            expected = 0.01
        elif name.endswith(("W_O.weight", "W_out.weight")):
            expected = 0.02 / math.sqrt(4)
        assert std == pytest.approx(expected, rel=0.03), name
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-5 and module.weight.eq(1).all() and module.bias.eq(0).all()
        elif isinstance(module, nn.Linear) and module.bias is not None:
            assert module.bias.eq(0).all()


def test_families_of_one_shape_and_seed_share_every_common_parameter():
    states = {family: family_net(family, seed=7).state_dict() for family in FAMILIES}
    for family, state in states.items():
        common = state.keys() & states["solu"].keys()
        assert {"embed.weight", "blocks.1.attn.W_O.weight", "unembed.weight"} <= common, family
        for name in common:
            torch.testing.assert_close(state[name], states["solu"][name], rtol=0, atol=0)
    assert "blocks.1.mlp.W_in.weight" in states["gelu"].keys() & states["pythia"].keys()


def test_starting_weights_depend_on_init_seed_alone():
    torch.manual_seed(1)
    first = family_net("gelu", seed=3).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again, other = family_net("gelu", seed=3).state_dict(), family_net("gelu", seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    for name in first:
        assert torch.equal(first[name], again[name])
        if first[name].ndim > 1:
            assert not torch.equal(first[name], other[name])


def test_starting_weights_do_not_depend_on_the_default_dtype():
    exact = family_net("pythia", seed=3).state_dict()
    torch.set_default_dtype(torch.bfloat16)
    try:
        rounded = family_net("pythia", seed=3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert rounded(tokens()).dtype == torch.bfloat16
    for name, value in rounded.state_dict().items():
        assert torch.equal(value, exact[name].bfloat16())


def test_no_two_parameters_of_one_shape_start_alike():
    weights = [p for p in family_net("solu", depth=3).parameters() if p.ndim > 1]
    flat = [tuple(p.flatten()[:4].tolist()) for p in weights]
    assert len(set(flat)) == len(flat)


def test_two_nets_built_without_a_seed_differ():
    arguments: dict[str, Any] = dict(d_model=64, n_layers=1, d_head=64, n_ctx=8, d_vocab=11, activation=None)
    one, other = Transformer(**arguments), Transformer(**arguments)
    assert not torch.equal(one.embed.weight, other.embed.weight)


class Bigram(nn.Module):
    """A family as a user would write it, without names of this project and with the initialization of torch."""

    def __init__(self, d_model, d_vocab):
        super().__init__()
        self.table = nn.Embedding(d_vocab, d_model)
        self.out = nn.Linear(d_model, d_vocab)

    def forward(self, tokens):
        return self.out(self.table(tokens))


def test_a_family_of_the_user_is_a_target_and_obeys_init_seed():
    config = {"family": "bigram", "_target_": f"{__name__}.Bigram", "d_model": 8, "d_vocab": "???"}
    nets: list[Any] = [build_net(config, D_VOCAB, seed) for seed in (0, 0, 1)]
    one, same, other = nets
    assert one(tokens()).shape == (3, 24, D_VOCAB)
    assert torch.equal(one.out.weight, same.out.weight) and not torch.equal(one.out.weight, other.out.weight)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_target_": "os.system", "command": "false"}, r"os\.system.*not an nn\.Module class"),
        ({"_target_": "builtins.dict"}, "not an nn.Module class"),
        ({"_target_": 3}, "cannot be imported"),
        ({"_target_": "models.transfomer.Transformer"}, r"models\.transfomer.*cannot be imported"),
        ({"d_model": 64}, "plain dict with a `_target_`"),
        (OmegaConf.create({"_target_": "torch.nn.GELU"}), "plain dict"),
        ({"_target_": "torch.nn.GELU", "approximate": "${oc.env:HOME}"}, "resolved"),
        ({"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "os.getcwd"}]}, r"os\.getcwd"),
    ],
)
def test_settings_that_name_anything_but_module_classes_are_rejected(config, message):
    with pytest.raises(ValueError, match=message):
        build_net(config, D_VOCAB, 0)
