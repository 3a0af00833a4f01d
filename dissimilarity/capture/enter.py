"""Enter a model at a site: run it from there on, on a given residual stream, without what comes before.

A model can be entered where its whole state is one residual stream: after the embedding; before, inside (between
attention and MLP, if one follows the other) and after each block; and after the final norm. Inside attention or an MLP
the stream bypasses the site, so an activation there is not the whole state.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dissimilarity.capture.architectures import ModulePoint
from dissimilarity.capture.forward import call
from dissimilarity.capture.hooks import first_result, undisturbed
from dissimilarity.capture.sites import describe, site_table

SITE = re.compile(r"(?P<network>.*?)(blocks\.(?P<layer>\d+)\.(?P<part>resid_pre|resid_mid|resid_post)|embed|ln_final)")


def enterable_sites(model: nn.Module) -> list[str]:
    """Return the sites at which `enter` can enter a model, in depth order; none if its architecture is unknown."""
    table = site_table(model)
    return [site for site in table if _entrance(model, table, site) is not None]


def check_enterable(model: nn.Module, site: str, name: str = "the model") -> None:
    """Check that a model can be entered at a site.

    Raises:
        ValueError: it cannot. The message names the sites at which it can.
    """
    table = site_table(model)
    if _entrance(model, table, site) is None:
        reason = "is not its whole residual stream" if site in table else "is not one of its sites"
        raise ValueError(
            f"{name} cannot be entered at {site!r}, which {reason}; it can be entered at "
            f"{describe(enterable_sites(model)) or 'no site, because its architecture is unknown'}"
        )


def enter(
    model: nn.Module,
    site: str,
    activation: Float[Tensor, "batch pos d"],
    tokens: Int[Tensor, "batch pos"],
    gradients: bool = False,
    mask: Bool[Tensor, "batch pos"] | None = None,
) -> Any:
    """Run a model from a site on, with an activation instead of its own residual stream there.

    The token embedding and the blocks before the site are not computed. Whatever the model prepares outside of them
    (positions, masks), it still prepares from `tokens`.

    As in `capture`, the model runs in eval mode, uncompiled, in the precision of an enclosing autocast. Afterwards
    everything is restored: flags, `forward`, gradients, the random number generators.

    Args:
        model: a model of a known architecture (see `capture.sites`), called as `model(tokens)`.
        site: one of `enterable_sites(model)`.
        activation: the residual stream at the site, on any device, in any precision.
        tokens: the input that determines positions and masks.
        gradients: whether to record gradients, with respect to the activation only: the weights are held fixed.
        mask: which positions are real, for models whose `forward` takes a mask; None where all are.

    Returns:
        the model's result: logits, or a Hugging Face output that holds them.

    Raises:
        ValueError: the model cannot be entered there, or the activation does not belong to the tokens.
        RuntimeError: the forward pass did not reach the site.

    Example:
        >>> from collections import OrderedDict
        >>> blocks = nn.Sequential(nn.Identity(), nn.Tanh())
        >>> model = nn.Sequential(OrderedDict(embed=nn.Embedding(5, 3), blocks=blocks))
        >>> stream = torch.tensor([[[0.0, 1.0, -1.0]]])
        >>> print(enter(model, "blocks.0.resid_post", stream, torch.tensor([[4]])))
        tensor([[[ 0.0000,  0.7616, -0.7616]]])
    """
    check_enterable(model, site)
    if activation.shape[:2] != tokens.shape:
        raise ValueError(
            f"expected an activation of (batch, pos) = {tuple(tokens.shape)} like the tokens, found "
            f"{tuple(activation.shape[:2])}; pass the activation of these tokens"
        )
    entrance = _entrance(model, site_table(model), site)
    assert entrance is not None
    weight = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), activation)
    stream, tokens = activation.to(weight.device, weight.dtype), tokens.to(weight.device)
    with undisturbed(model, gradients), _frozen(model):
        # A copy, because a model may overwrite its stream in place.
        stream = stream.clone() if entrance.before is None else entrance.before(stream)
        reached: list[bool] = []
        with _rerouted(model, entrance, stream, reached):
            output = call(model, tokens, mask)
    if not reached:
        raise RuntimeError(
            f"the forward pass did not reach {site}: its owner may call that module's parts directly, or skip it; "
            "choose another site"
        )
    return output


@dataclass(frozen=True)
class _Entrance:
    """How a model is entered at one site.

    Attributes:
        skipped: modules that are not computed, in order. Each returns a placeholder of the same shape.
        at: the module that receives the stream (`input`), or that returns it without being computed (`output`).
        before: applied to the stream first, if a block is entered in its middle.
    """

    skipped: Sequence[str]
    at: ModulePoint
    before: Callable[[Tensor], Tensor] | None = None


def _entrance(model: nn.Module, table: dict[str, ModulePoint], site: str) -> _Entrance | None:
    """Return the entrance at a site; None if there is none."""
    match = SITE.fullmatch(site)
    if match is None or site not in table:
        return None
    network = match["network"]
    embed = [table[f"{network}embed"].module] if f"{network}embed" in table else []
    blocks = []
    while (start := f"{network}blocks.{len(blocks)}.resid_pre") in table:
        blocks.append(table[start].module)
    if match["layer"] is None:
        return _Entrance([] if site.endswith("embed") else [*embed, *blocks], table[site])
    layer, before = int(match["layer"]), None
    if match["part"] == "resid_pre":
        return _Entrance([*embed, *blocks[:layer]], ModulePoint(blocks[layer], "input"))
    if match["part"] == "resid_mid":
        before = _second_half(model, table, f"{network}blocks.{layer}.")
        if before is None:
            return None
    # After a block, the stream enters where the next block reads it: a block may return more than its stream.
    skipped = [*embed, *blocks[: layer + 1]]
    if layer + 1 < len(blocks):
        return _Entrance(skipped, ModulePoint(blocks[layer + 1], "input"), before)
    final = table.get(f"{network}ln_final")
    if final is not None:
        return _Entrance(skipped, ModulePoint(final.module, "input"), before)
    return _Entrance(skipped[:-1], ModulePoint(blocks[layer], "output"), before)


def _second_half(model: nn.Module, table: dict[str, ModulePoint], block: str) -> Callable[[Tensor], Tensor] | None:
    """Return what a block does to its stream after attention; None if the block has neither of the two known forms."""
    middle, out = table[f"{block}resid_mid"], table.get(f"{block}mlp_out")
    path, _, _ = middle.module.rpartition(".")
    owner = model.get_submodule(path)
    if middle.side == "input" and out is not None and out.module == f"{path}.mlp" and not hasattr(owner, "ln2_post"):
        norm, mlp = model.get_submodule(middle.module), model.get_submodule(out.module)
        return lambda stream: stream + first_result(mlp(norm(stream)))
    if middle.side == "output" and middle.module.endswith(".attention.output"):
        bert: Any = model.get_submodule(middle.module.removesuffix(".attention.output"))
        return lambda stream: bert.output(bert.intermediate(stream), stream)
    return None


@contextmanager
def _rerouted(model: nn.Module, entrance: _Entrance, stream: Tensor, reached: list[bool]) -> Iterator[None]:
    """Replace `forward` of the skipped modules by one that computes nothing, and of the entered module by the stream.

    A module that runs several times per pass is entered the first time.
    """
    placeholder = torch.zeros_like(stream)

    def skip(*args: Any, **kwargs: Any) -> Tensor:
        return placeholder

    def return_stream(*args: Any, **kwargs: Any) -> Tensor:
        reached.append(True)
        return stream

    def receive_stream(forward: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            if reached:
                return forward(*args, **kwargs)
            reached.append(True)
            if args:
                return forward(stream, *args[1:], **kwargs)
            return forward(**{**kwargs, next(iter(kwargs)): stream})

        return run

    routes = {model.get_submodule(path): skip for path in entrance.skipped}
    at = model.get_submodule(entrance.at.module)
    routes[at] = receive_stream(at.forward) if entrance.at.side == "input" else return_stream
    instance_forwards = {module: vars(module).get("forward") for module in routes}
    try:
        for module, route in routes.items():
            vars(module)["forward"] = route
        yield
    finally:
        for module, forward in instance_forwards.items():
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Record no gradients for the weights."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def logits_of(output: Any) -> Float[Tensor, "batch pos d_vocab"]:
    """Return the logits in a model's result: the result itself, or the first element of a tuple or output.

    Raises:
        ValueError: no logits (batch, pos, d_vocab) there.
    """
    logits = first_result(output)
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        returned = f"{tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"expected a model that returns logits (batch, pos, d_vocab), found {returned}")
    return logits
