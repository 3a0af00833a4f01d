"""Capture: every site against a forward pass written by hand, and nothing left behind."""

from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from dissimilarity.capture.hooks import capture
from dissimilarity.capture.sites import site_table
from models.solu import SoLU
from models.transformer import Transformer

torch.set_num_threads(1)


def toy(**choices: Any) -> Transformer:
    torch.manual_seed(1)
    defaults: dict[str, Any] = dict(d_model=16, n_layers=3, d_head=8, n_ctx=8, d_vocab=20, activation=nn.GELU)
    return Transformer(**defaults | choices)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, 20, (4, 8), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def by_hand(net: Any, tokens: Tensor) -> dict[str, Tensor]:
    acts = {"embed": net.embed.weight[tokens]}
    stream = acts["embed"]
    if net.pos_embed is not None:
        stream = stream + net.pos_embed.weight[: tokens.shape[1]]
    for layer, block in enumerate(net.blocks):
        name = f"blocks.{layer}"
        acts[f"{name}.resid_pre"] = before = stream
        acts[f"{name}.attn_out"] = block.attn(block.ln1(stream))
        stream = stream + acts[f"{name}.attn_out"]
        if block.mlp is not None:
            if not block.parallel:
                acts[f"{name}.resid_mid"] = stream
            pre = acts[f"{name}.mlp.pre"] = block.mlp.W_in(block.ln2(before if block.parallel else stream))
            post = block.mlp.act(pre)
            if block.mlp.ln is not None:
                acts[f"{name}.mlp.mid"] = post
                post = block.mlp.ln(post)
            acts[f"{name}.mlp.post"] = post
            acts[f"{name}.mlp_out"] = block.mlp.W_out(post)
            stream = stream + acts[f"{name}.mlp_out"]
        acts[f"{name}.resid_post"] = stream
    acts["ln_final"] = net.ln_final(stream)
    return acts


FAMILIES = {
    "gelu": {},
    "solu": {"activation": SoLU, "mlp_norm": True},
    "attn_only": {"activation": None},
    "pythia": {"parallel": True, "rotary_share": 0.25},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_equals_the_forward_pass_by_hand(family, tokens):
    net = toy(**FAMILIES[family])
    expected = by_hand(net, tokens)
    assert set(site_table(net)) == set(expected)
    with capture(net, "*") as acts:
        net(tokens)
    assert list(acts) and set(acts) == set(expected)
    for site, activation in expected.items():
        torch.testing.assert_close(acts[site], activation, rtol=0, atol=0, msg=site)
        assert not acts[site].requires_grad and not acts[site].is_inference()


class Wrapped(LightningModule):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens)


# torch.compile cannot trace the run-time checks of shapes that the tests install.
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("compiled", ["in place", "before a run", "as a wrapper", "one block"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_compiled_model_returns_the_same_and_stays_compiled(compiled, wrapped, tokens):
    net: Any = toy()
    with capture(net, "blocks.*") as expected:
        net(tokens)
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    if compiled == "one block":
        net.blocks[1].compile(backend=backend)
    elif compiled == "as a wrapper":
        net = torch.compile(net, backend=backend)
    else:
        net.compile(backend=backend)
    model = Wrapped(net) if wrapped else net
    if compiled != "before a run":
        model(tokens)
    before = len(graphs)
    for _ in range(2):
        with capture(model, "blocks.*") as acts:
            assert model(tokens) is None
        assert set(acts) == set(expected)
        for site, activation in expected.items():
            torch.testing.assert_close(acts[site], activation)
    assert len(graphs) == before
    assert model(tokens) is not None
    if compiled != "before a run":
        assert len(graphs) == before, "the capture made the training step compile again"
    else:
        assert len(graphs) > 0


def test_the_pass_ends_at_the_deepest_site(tokens):
    net = toy()
    site_table(net)
    calls = []
    for name in ("blocks.1", "blocks.2", "unembed"):
        module = net.get_submodule(name)
        module.forward = lambda *args, _name=name, _forward=module.forward: (calls.append(_name), _forward(*args))[1]
    with capture(net, "blocks.1.resid_post") as acts:
        assert net(tokens) is None
        assert net(tokens) is None
    assert calls == ["blocks.1"] * 2 and set(acts) == {"blocks.1.resid_post"}
    with capture(net, "unembed") as acts:
        net(tokens)
    assert calls[2:] == ["blocks.1", "blocks.2", "unembed"] and acts["unembed"].shape == (4, 8, 20)


def test_no_gradients_are_kept(tokens):
    enabled: list[bool] = []
    net: Any = toy()
    site_table(net)
    net.ln_final.forward = lambda x: (enabled.append(torch.is_grad_enabled()), x)[1]
    with capture(net, "ln_final"):
        net(tokens)
    assert enabled == [False]


def test_hooks_set_by_others_see_the_whole_pass(tokens):
    net = toy()
    site_table(net)
    seen = []
    net.unembed.register_forward_hook(lambda *_: seen.append(1))
    with capture(net, "embed") as acts:
        assert net(tokens) is not None
    assert seen == [1] and set(acts) == {"embed"}


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")


def state(model: nn.Module) -> dict:
    return {
        "flags": [module.training for module in model.modules()],
        "hooks": [len(getattr(module, name)) for module in model.modules() for name in HOOKS],
        "forward": [vars(module).get("forward") for module in model.modules()],
        "rng": torch.get_rng_state().tolist(),
        "stance": torch._dynamo.eval_frame._stance.stance,
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


class Noisy(nn.Module):
    """A module that draws random numbers even in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(())


@pytest.mark.parametrize("error", [None, KeyError, KeyboardInterrupt])
def test_everything_is_restored(error, tokens):
    net = toy(activation=Noisy).train()
    net.blocks[1].eval()
    net.ln_final.training = False
    forward = net.forward
    net.forward = lambda tokens: forward(tokens)
    loss = net(tokens).square().mean()
    loss.backward()
    grads = [parameter.grad for parameter in net.parameters()]
    copies = [grad.clone() for grad in grads if grad is not None]
    before = state(net)
    if error is None:
        with capture(net, "blocks.*"):
            assert not any(module.training for module in net.modules())
            net(tokens)
    else:
        with pytest.raises(error), capture(net, "blocks.*"):
            net(tokens)
            raise error
    assert state(net) == before
    assert all(parameter.grad is grad for parameter, grad in zip(net.parameters(), grads, strict=True))
    assert all(torch.equal(grad, copy) for grad, copy in zip(grads, copies, strict=True) if grad is not None)


def test_training_continues_unchanged(tokens):
    """This holds within one autocast region too, whose cache of cast weights would otherwise lose its gradients."""
    losses = []
    for tracked in (False, True):
        net: Any = toy()
        net.embed = nn.Sequential(net.embed, nn.Dropout(0.5))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        torch.manual_seed(3)
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                if tracked:
                    with capture(net, "*"):
                        net(tokens)
                loss = net(tokens).float().logsumexp(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            assert all(parameter.grad is not None for parameter in net.parameters())
            optimizer.step()
            losses.append(loss.item())
    assert losses[:3] == losses[3:]


class InPlace(nn.Module):
    """A model that overwrites the result of its first block and returns views."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](x)
        x += 1
        x = self.blocks[1](x)
        return self.relu(x)


def test_captured_tensors_survive_later_overwrites():
    model, x = InPlace(), torch.randn(3, 4)
    sites = ["blocks.0", "blocks.0.resid_post", "blocks.1.resid_pre", "blocks.1.resid_post", "relu.output"]
    with capture(model, sites) as acts:
        model(x)
    with torch.no_grad():
        first = model.blocks[0](x)
        second = model.blocks[1](first + 1)
    torch.testing.assert_close(acts["blocks.0"], first)
    torch.testing.assert_close(acts["blocks.0.resid_post"], first + 1)  # as the next block reads it
    torch.testing.assert_close(acts["blocks.1.resid_pre"], first + 1)
    torch.testing.assert_close(acts["blocks.1.resid_post"], second)
    torch.testing.assert_close(acts["relu.output"], second.relu())


class Skipping(nn.Module):
    """A model that skips its second block for short inputs, runs its first twice, and reads its third's weight."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](self.blocks[0](x))
        if len(x) > 2:
            x = self.blocks[1](x)
        return x @ self.blocks[2].get_parameter("weight").T


def test_sites_that_were_not_reached_are_named():
    model = Skipping()
    with (
        pytest.raises(RuntimeError, match=r"did not reach blocks\.2: the module exists"),
        capture(model, "blocks.[02]"),
    ):
        model(torch.randn(3, 4))
    with (
        pytest.raises(RuntimeError, match=r"did not reach blocks\.1"),
        capture(model, "blocks.[01]"),
    ):
        model(torch.randn(3, 4))
        model(torch.randn(1, 4))
    with (
        pytest.raises(RuntimeError, match="nothing captured.*inside the `with"),
        capture(model, "blocks.0"),
    ):
        pass
    with pytest.raises(ValueError, match="no site of the model matches"), capture(model, "blocks.9"):
        pass


def test_the_first_result_per_pass_and_the_last_pass_count():
    model, x = Skipping(), torch.randn(3, 4)
    for sites in ("blocks.0", "blocks.[01]"):
        with capture(model, sites) as acts:
            model(torch.randn(5, 4))
            model(x)
        torch.testing.assert_close(acts["blocks.0"], model.blocks[0](x))


class Structured(nn.Module):
    """A model that passes keyword arguments to its block, which returns a tuple, and returns a dict."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Tupled()])
        self.head = Dicted()

    def forward(self, x: Tensor, *, scale: float) -> dict[str, Tensor]:
        return self.head(self.blocks[0](x=x * scale)[0])


class Tupled(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x + 1, None


class Dicted(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}


def test_tuples_keywords_and_dicts():
    model, x = Structured(), torch.ones(2, 3)
    with capture(model, ["blocks.*.resid_p*"]) as acts:
        model(x, scale=2.0)
    assert torch.equal(acts["blocks.0.resid_pre"], 2 * x) and torch.equal(acts["blocks.0.resid_post"], 2 * x + 1)
    with pytest.raises(ValueError, match="'head' returns a dict, not a tensor"), capture(model, "head"):
        model(x, scale=2.0)
    assert state(model)["hooks"] == [0] * 16


def test_a_part_of_the_model_may_be_called_by_itself(tokens):
    model = Wrapped(toy())
    with capture(model, "blocks.0.resid_post") as acts:
        assert model.net(tokens) is not None
    assert acts["blocks.0.resid_post"].shape == (4, 8, 16)


def test_inside_inference_mode_the_tensors_are_ordinary(tokens):
    net = toy()
    with torch.inference_mode(), capture(net, "embed") as acts:
        net(tokens)
    assert not acts["embed"].is_inference()
