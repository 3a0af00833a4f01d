"""Enter a model at a site: run it from there on, on a given residual stream, without what comes before.

A model can be entered where its whole state is one residual stream: after the embedding; before, inside (between
attention and MLP, if one follows the other) and after each block; and after the final norm. Inside attention or an MLP
the stream bypasses the site, so an activation there is not the whole state. Whether the stream is the whole state is
tested on the model itself (see `streams`).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dissimilarity.capture.call import call
from dissimilarity.capture.forward import first_result, undisturbed, with_first_argument, with_first_result
from dissimilarity.capture.networks import networks_of
from dissimilarity.capture.points import ModulePoint, named_modules
from dissimilarity.capture.site_names import describe
from dissimilarity.capture.sites import site_table
from dissimilarity.capture.streams import Stream
from dissimilarity.capture.trial import lengths_explained

SITE = re.compile(r"blocks\.(?P<layer>\d+)\.(?P<part>resid_pre|resid_mid|resid_post)|embed|ln_final")


def enterable_sites(model: nn.Module) -> list[str]:
    """Return the sites at which `enter` can enter a model, in depth order; none if it has no named sites."""
    networks = networks_of(model)
    return [site for site in site_table(model) if _entrance(networks, site) is not None]


def check_enterable(model: nn.Module, site: str, name: str = "the model") -> None:
    """Check that a model can be entered at a site.

    Raises:
        ValueError: it cannot. The message names the sites at which it can.
    """
    if _entrance(networks_of(model), site) is None:
        reason = "is not its whole residual stream" if site in site_table(model) else "is not one of its sites"
        sites = describe(enterable_sites(model)) or "no site: none was found that the whole residual stream passes"
        raise ValueError(f"{name} cannot be entered at {site!r}, which {reason}; it can be entered at {sites}")


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
        model: a model with named sites (see `capture.sites`), called as `model(tokens)`.
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

    Examples:
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
    entrance = _entrance(networks_of(model), site)
    assert entrance is not None
    weight = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), activation)
    stream, tokens = activation.to(weight.device, weight.dtype), tokens.to(weight.device)
    with undisturbed(model, gradients), _frozen(model):
        # A copy, because a model may overwrite its stream in place.
        reached: list[bool] = []
        with lengths_explained(model, tokens), _rerouted(model, entrance, stream.clone(), reached):
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
        stream: the stream that it belongs to.
        skipped: modules before it, which do not see the model's own stream.
        at: the module that receives the stream (`input`), or whose first result it replaces (`output`).
        silenced: a module whose first result is zero, if a block is entered in its middle: what it would have added is
            in the stream already.
    """

    stream: Stream
    skipped: Sequence[str]
    at: ModulePoint
    silenced: str | None = None


def _entrance(networks: dict[str, Stream], site: str) -> _Entrance | None:
    """Return the entrance at a site; None if there is none."""
    for label, stream in networks.items():
        match = SITE.fullmatch(site.removeprefix(label)) if site.startswith(label) else None
        if match is None:
            continue
        if match["layer"] is None:
            at, skipped = (stream.embed, []) if match[0] == "embed" else (stream.ln_final, _before(stream))
            return _Entrance(stream, skipped, at) if stream.is_whole and at is not None else None
        layer = int(match["layer"])
        if layer >= len(stream.blocks):
            return None
        if match["part"] == "resid_mid":
            return _in_the_middle(stream, layer)
        # After a block, the stream enters where the next block reads it: a block may return more than its stream.
        return _between_blocks(stream, layer + (match["part"] == "resid_post"))
    return None


def _between_blocks(stream: Stream, layer: int) -> _Entrance | None:
    """Return the entrance after this many blocks."""
    if layer < len(stream.blocks):
        block = stream.blocks[layer]
        return _Entrance(stream, _before(stream, layer), ModulePoint(block.path, "input")) if block.is_whole else None
    if not stream.is_whole:
        return None
    if stream.ln_final is not None:
        return _Entrance(stream, _before(stream), ModulePoint(stream.ln_final.module, "input"))
    return _Entrance(stream, _before(stream, layer - 1), ModulePoint(stream.blocks[-1].path, "output"))


def _in_the_middle(stream: Stream, layer: int) -> _Entrance | None:
    block = stream.blocks[layer]
    if block.parts.middle is None or not block.is_whole_in_the_middle:
        return None
    if block.parts.is_normed:
        return _Entrance(stream, _before(stream, layer), block.parts.middle)
    return _Entrance(stream, _before(stream, layer), ModulePoint(block.path, "input"), block.parts.added[0])


def _before(stream: Stream, layers: int | None = None) -> list[str]:
    """Return the embedding and this many blocks, by default all."""
    embed = [] if stream.embed is None else [stream.embed.module]
    return [*embed, *(block.path for block in stream.blocks[:layers])]


@contextmanager
def _rerouted(model: nn.Module, entrance: _Entrance, stream: Tensor, reached: list[bool]) -> Iterator[None]:
    """Replace `forward` of the modules of an entrance by one that does as the entrance says.

    A module that runs several times per pass is entered the first time.
    """

    def returning(path: str, module: nn.Module, tensor: Tensor, mark: list[bool]) -> Callable:
        forward, shell = module.forward, entrance.stream.shells.get(path)

        def run(*args: Any, **kwargs: Any) -> Any:
            if path == entrance.at.module and reached:
                return forward(*args, **kwargs)
            mark.append(True)
            with torch.no_grad():
                return with_first_result(forward(*args, **kwargs) if shell is None else shell, tensor)

        return run

    def receiving(forward: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            if not reached:
                reached.append(True)
                args, kwargs = with_first_argument(args, kwargs, stream)
            return forward(*args, **kwargs)

        return run

    actual, routes = named_modules(model), {}
    for path in entrance.skipped if entrance.silenced is None else [*entrance.skipped, entrance.silenced]:
        module = model.get_submodule(actual[path])
        width = getattr(module, "embedding_dim", stream.shape[-1])
        routes[module] = returning(path, module, stream.new_zeros(*stream.shape[:-1], width), [])
    at = model.get_submodule(actual[entrance.at.module])
    is_input = entrance.at.side == "input"
    routes[at] = receiving(at.forward) if is_input else returning(entrance.at.module, at, stream, reached)
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
