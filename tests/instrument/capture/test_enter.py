"""Entering a model at a site: its own stream gives its own logits, nothing before the site runs, nothing is left."""

from typing import Any

import pytest
import torch
import transformers
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from dissimilarity.capture.enter import check_enterable, enter, enterable_sites, logits_of
from dissimilarity.capture.hooks import capture
from tests.helpers.families import FAMILIES, family_net

SIZES: dict[str, Any] = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, vocab_size=61
)
ROOM: dict[str, Any] = dict(**SIZES, max_position_embeddings=16)
OTHERS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=61, n_embd=32, n_layer=3, n_head=4, n_positions=16)
    ),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**ROOM)),
    "gpt_neox_sequential": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**ROOM, use_parallel_residual=False)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**ROOM)),
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**ROOM)),
}
PARALLEL = {"pythia", "gpt_neox"}


def tokens(batch: int = 3, length: int = 9) -> Tensor:
    return torch.randint(61, (batch, length), generator=torch.Generator().manual_seed(0))


def net(name: str) -> Any:
    """Return three blocks with every bias, scale and weight moved from its initial value."""
    torch.manual_seed(0)
    model = OTHERS[name]() if name in OTHERS else family_net(name, width=64, depth=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


def own_logits(model: nn.Module, probe: Tensor) -> Tensor:
    with capture(model, "logits") as acts:
        model(probe)
    return acts["logits"]


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_entering_with_the_own_stream_returns_the_same_logits_at_every_site(name):
    model, probe = net(name), tokens()
    sites = enterable_sites(model)
    parts = (
        ["resid_pre", "resid_post"] if name in PARALLEL | {"attn_only"} else ["resid_pre", "resid_mid", "resid_post"]
    )
    final = [] if name == "bert" else ["ln_final"]
    assert sites == ["embed", *(f"blocks.{layer}.{part}" for layer in range(3) for part in parts), *final]
    expected = own_logits(model, probe)
    with capture(model, sites) as acts:
        model(probe)
    for site in sites:
        assert torch.equal(logits_of(enter(model, site, acts[site], probe)), expected), site
        changed = logits_of(enter(model, site, acts[site] + torch.randn_like(acts[site]), probe))
        assert (changed - expected).abs().amax(-1).min() > 1e-3, site


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [False, True])
def test_transformer_lens_models(parallel):
    lens = pytest.importorskip("transformer_lens")
    sizes: dict[str, Any] = dict(n_layers=3, d_model=32, d_head=8, n_ctx=16, d_vocab=61, seed=0, device="cpu")
    config = lens.HookedTransformerConfig(
        **sizes, act_fn="gelu" if parallel else "solu_ln", normalization_type="LN", parallel_attn_mlp=parallel
    )
    model, probe = lens.HookedTransformer(config), tokens()
    sites = enterable_sites(model)
    assert ("blocks.1.resid_mid" in sites) == (not parallel) and {"embed", "blocks.2.resid_post"} < set(sites)
    with capture(model, [*sites, "logits"]) as acts:
        model(probe)
    for site in sites:
        assert torch.equal(logits_of(enter(model, site, acts[site], probe)), acts["logits"]), site


def parts_that_run(model: nn.Module, run: Any) -> set[str]:
    ran, handles = set(), []
    for path, module in model.named_modules():
        if not any(module.children()):
            handles.append(module.register_forward_hook(lambda *_, path=path: ran.add(path)))
    run()
    for handle in handles:
        handle.remove()
    return ran


@pytest.mark.parametrize("name", ["gelu", "pythia", "gpt2", "gpt_neox_sequential", "llama", "bert"])
def test_nothing_before_the_site_is_computed(name):
    model, probe = net(name), tokens()
    stack = "bert.encoder.layer" if name == "bert" else {"gpt2": "transformer.h", "llama": "model.layers"}.get(name)
    stack = stack or ("gpt_neox.layers" if "neox" in name else "blocks")
    everything = parts_that_run(model, lambda: model(probe))
    for site in enterable_sites(model):
        with capture(model, site) as acts:
            model(probe)
        ran = parts_that_run(model, lambda site=site, acts=acts: enter(model, site, acts[site], probe))
        if site in ("embed", "ln_final"):
            first = {"embed": 0, "ln_final": 3}[site]
        else:
            first = int(site.split(".")[1]) + site.endswith(("resid_mid", "resid_post"))
        in_blocks = {path for path in everything if path.startswith(stack)}
        expected = {path for path in in_blocks if int(path.removeprefix(stack + ".").split(".")[0]) >= first}
        before = {path for path in ran if path.startswith(stack)} - expected
        assert expected <= ran
        if site.endswith("resid_mid"):
            assert before and not any("attention.self" in path or "attn" in path or "query" in path for path in before)
        else:
            assert not before
    # The embedding, a leaf, is called and computes nothing: it would refuse these.
    wrong = torch.full_like(probe, 10**6)
    enter(model, "blocks.1.resid_pre", acts_at(model, "blocks.1.resid_pre", probe), wrong)


def acts_at(model: nn.Module, site: str, probe: Tensor) -> Tensor:
    with capture(model, site) as acts:
        model(probe)
    return acts[site]


@pytest.mark.parametrize("name", ["solu", "gpt2", "llama"])
def test_gradients_reach_the_activation_and_nothing_else(name):
    model, probe = net(name), tokens()
    for site in ("embed", "blocks.0.resid_post", "blocks.2.resid_post"):
        stream = acts_at(model, site, probe).requires_grad_()
        logits_of(enter(model, site, stream, probe, gradients=True)).float().logsumexp(-1).mean().backward()
        assert stream.grad is not None and bool(stream.grad.abs().sum(-1).all())
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
        assert not logits_of(enter(model, site, stream, probe)).requires_grad


def test_gradients_are_those_of_the_model():
    """The derivative at the entered stream equals finite differences of the whole model's loss."""
    model, probe = net("gelu").double(), tokens()
    stream = acts_at(model, "blocks.0.resid_post", probe)
    direction = torch.randn_like(stream)
    loss = lambda at: logits_of(enter(model, "blocks.0.resid_post", at, probe, True)).logsumexp(-1).mean()  # noqa: E731
    at = stream.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(at), at)
    numeric = (loss(stream + 1e-5 * direction) - loss(stream - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close((grad * direction).sum(), numeric.detach(), rtol=1e-6, atol=0)


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("on the way")


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored(fails):
    model, probe = net("gelu"), tokens()
    model.blocks[1].eval()
    model.embed.weight.requires_grad_(False)
    forward = model.blocks[0].forward
    model.blocks[0].forward = lambda x: forward(x)
    stream = acts_at(model, "blocks.0.resid_post", probe)
    if fails:
        model.ln_final.forward = Failing().forward

    def state() -> list:
        modules = list(model.modules())
        return [
            [module.training for module in modules],
            [vars(module).get("forward") for module in modules],
            [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules],
            [parameter.requires_grad for parameter in model.parameters()],
            torch.get_rng_state().tolist(),
            torch.is_grad_enabled(),
        ]

    before = state()
    if fails:
        with pytest.raises(KeyError):
            enter(model, "blocks.0.resid_post", stream, probe)
    else:
        enter(model, "blocks.0.resid_post", stream, probe)
    assert state() == before


def test_a_model_in_half_precision_and_one_under_autocast():
    model, probe = net("gelu"), tokens()
    with torch.autocast("cpu", torch.bfloat16):
        expected, stream = own_logits(model, probe), acts_at(model, "blocks.1.resid_post", probe)
        assert torch.equal(logits_of(enter(model, "blocks.1.resid_post", stream, probe)), expected)
    half = model.bfloat16()
    expected, stream = own_logits(half, probe), acts_at(half, "blocks.1.resid_post", probe)
    assert stream.dtype == torch.bfloat16
    assert torch.equal(logits_of(enter(half, "blocks.1.resid_post", stream.double(), probe)), expected)


class Wrapped(LightningModule):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens)


@pytest.mark.usefixtures("unchecked")
def test_wrapped_and_compiled_models():
    model, probe = net("gelu"), tokens()
    expected, stream = own_logits(model, probe), acts_at(model, "blocks.1.resid_post", probe)
    assert torch.equal(enter(Wrapped(model), "blocks.1.resid_post", stream, probe), expected)
    torch.compiler.reset()
    compiled: Any = torch.compile(model, backend="eager")
    compiled(probe)
    assert torch.equal(enter(compiled, "blocks.1.resid_post", stream, probe), expected)
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    model.blocks[2].compile(backend="eager")
    assert torch.equal(enter(model, "blocks.1.resid_post", stream, probe), expected)
    assert torch.equal(
        enter(model, "blocks.0.resid_post", acts_at(model, "blocks.0.resid_post", probe), probe), expected
    )


class Tupled(nn.Module):
    """A block that returns its stream and something else, as older Hugging Face models do."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x + self.inner(x), None


class Unpacking(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(61, 8)
        self.blocks = nn.ModuleList([Tupled() for _ in range(4)])
        self.ln_final = nn.LayerNorm(8)
        self.unembed = nn.Linear(8, 61)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)[0]
        return self.unembed(self.ln_final(x))


def test_blocks_that_return_more_than_their_stream():
    torch.manual_seed(0)
    model, probe = Unpacking(), tokens(1, 5)
    expected = own_logits(model, probe)
    assert len(enterable_sites(model)) == 10
    for site in enterable_sites(model):
        assert torch.equal(enter(model, site, acts_at(model, site, probe), probe), expected), site


@pytest.mark.parametrize("site", ["blocks.1.attn_out", "blocks.0.mlp.pre", "blocks.0.mlp.post", "blocks.2.mlp_out"])
def test_sites_that_the_stream_bypasses_are_rejected(site):
    model, probe = net("gelu"), tokens()
    with pytest.raises(
        ValueError, match=r"not its whole residual stream; .*embed, blocks\.\{0-2\}\.resid_pre.*ln_final"
    ):
        enter(model, site, torch.zeros(3, 9, 64), probe)


@pytest.mark.usefixtures("unchecked")
def test_other_refusals():
    model, probe = net("pythia"), tokens()
    with pytest.raises(
        ValueError, match=r"'blocks.0.resid_mid', which is not one of its sites; it can be entered at embed"
    ):
        enter(model, "blocks.0.resid_mid", torch.zeros(3, 9, 64), probe)
    with pytest.raises(ValueError, match="the back model cannot be entered at 'blocks.7.resid_post'"):
        check_enterable(model, "blocks.7.resid_post", "the back model")
    with pytest.raises(ValueError, match="at no site: none was found"):
        check_enterable(nn.Linear(2, 2), "embed")
    with pytest.raises(ValueError, match=r"expected an activation of \(batch, pos\) = \(3, 9\).*found \(2, 9\)"):
        enter(model, "embed", torch.zeros(2, 9, 64), probe)
    with pytest.raises(ValueError, match=r"returns logits \(batch, pos, d_vocab\), found \(3, 9\)"):
        logits_of(probe)


class InPlace(Unpacking):
    """A block that overwrites its stream."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x += 1
            x = block(x)[0]
        return self.unembed(self.ln_final(x))


def test_the_given_stream_is_not_overwritten():
    torch.manual_seed(0)
    model, probe = InPlace(), tokens()
    expected, stream = own_logits(model, probe), acts_at(model, "blocks.1.resid_post", probe)
    for _ in range(2):
        assert torch.equal(enter(model, "blocks.1.resid_post", stream, probe), expected)
    original = acts_at(model, "embed", probe)
    stream = original.clone()
    assert torch.equal(enter(model, "embed", original, probe), expected)
    assert torch.equal(original, stream)


class Skipping(Unpacking):
    """A model that skips its last block for long sequences."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks[: 3 if tokens.shape[1] > 8 else 4]:
            x = block(x)[0]
        return self.unembed(self.ln_final(x))


def test_a_site_that_the_pass_does_not_reach():
    with pytest.raises(RuntimeError, match="did not reach blocks.3.resid_pre"):
        enter(Skipping(), "blocks.3.resid_pre", torch.zeros(3, 9, 8), tokens())
