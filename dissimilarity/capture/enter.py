"""Entering a model at a site: what it makes of a residual stream that is put in there, and nothing before it is run.

    enter(model, "blocks.1.resid_post", activation, tokens)  # what model(tokens) returns, from that site on

A model is entered where its whole state is one residual stream: after the embedding, before, inside (between attention
and MLP, where one follows the other) and after each block, and after the final norm. Inside attention or an MLP the
stream goes on beside the site, so what is put in there would not be all that the model goes on with.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dissimilarity.capture.architectures import ModulePoint
from dissimilarity.capture.hooks import first_result, undisturbed
from dissimilarity.capture.sites import describe, site_table

SITE = re.compile(r"(?P<network>.*?)(blocks\.(?P<layer>\d+)\.(?P<part>resid_pre|resid_mid|resid_post)|embed|ln_final)")


def enterable_sites(model: nn.Module) -> list[str]:
    """The sites at which `enter` can enter the model, in depth order; none where the architecture is unknown."""
    table = site_table(model)
    return [site for site in table if _entrance(model, table, site) is not None]


def check_enterable(model: nn.Module, site: str, name: str = "the model") -> None:
    """Raise ValueError, naming the sites that can be, for a site at which the model cannot be entered."""
    table = site_table(model)
    if _entrance(model, table, site) is None:
        known = [site for site in table if _entrance(model, table, site) is not None]
        why = "is not a site of it" if site not in table else "is not its whole residual stream: more goes on beside it"
        raise ValueError(
            f"{name} cannot be entered at {site!r}, which {why}; it can be entered at "
            f"{describe(known) or 'no site, since its architecture is unknown'}"
        )


def enter(
    model: nn.Module,
    site: str,
    activation: Float[Tensor, "batch pos d"],
    tokens: Int[Tensor, "batch pos"],
    gradients: bool = False,
) -> Any:
    """Run the model from a site on, with an activation in the place of what it would have there.

    The token embedding and the blocks before the site are not computed. What a model prepares outside of them
    (positions, masks) it still prepares, from `tokens`.

    As in `capture`, the model runs in eval mode, uncompiled, in the precision of an enclosing autocast, and everything
    is as it was afterwards: flags, `forward`, gradients, the random number generators.

    Args:
        model: of an architecture that `sites` knows, called as `model(tokens)`.
        site: one of `enterable_sites(model)`.
        activation: the residual stream at the site, on any device, in any precision.
        tokens: the input whose other effects (positions, masks) the model is to see.
        gradients: whether to record them, with respect to the activation alone: the weights are held fixed.

    Returns:
        what the model returns: logits, or what Hugging Face's models hold them in.

    Raises:
        ValueError: the model cannot be entered there; an activation of other sequences than the tokens.
        RuntimeError: the forward pass did not come past the site.
    """
    check_enterable(model, site)
    if activation.shape[:2] != tokens.shape:
        raise ValueError(
            f"expected an activation of (batch, pos) = {tuple(tokens.shape)} as the tokens, found "
            f"{tuple(activation.shape[:2])}; pass the activation of these tokens"
        )
    entrance = _entrance(model, site_table(model), site)
    assert entrance is not None
    weight = next((each for each in model.parameters() if each.is_floating_point()), activation)
    stream, tokens = activation.to(weight.device, weight.dtype), tokens.to(weight.device)
    with undisturbed(model, gradients), _frozen(model):
        # A copy, for a model may overwrite its stream in place.
        stream = stream.clone() if entrance.before is None else entrance.before(stream)
        reached: list[bool] = []
        with _rerouted(model, entrance, stream, reached):
            output = model(tokens)
    if not reached:
        raise RuntimeError(
            f"the forward pass did not come past {site}: its owner may call that module's parts directly, or skip it; "
            "choose another site"
        )
    return output


@dataclass(frozen=True)
class _Entrance:
    """How a model is entered at one site.

    Attributes:
        skipped: modules that are not computed, in order; each hands on a stand-in of the same shape.
        at: the module that is given the stream (`input`), or that returns it without being computed (`output`).
        before: what is done to the stream first, inside the block that is entered in its middle.
    """

    skipped: Sequence[str]
    at: ModulePoint
    before: Callable[[Tensor], Tensor] | None = None


def _entrance(model: nn.Module, table: dict[str, ModulePoint], site: str) -> _Entrance | None:
    """The entrance at a site; None if there is none."""
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
    # After a block the stream is put in where the next one reads it: what a block returns beside it does not matter.
    skipped = [*embed, *blocks[: layer + 1]]
    if layer + 1 < len(blocks):
        return _Entrance(skipped, ModulePoint(blocks[layer + 1], "input"), before)
    final = table.get(f"{network}ln_final")
    if final is not None:
        return _Entrance(skipped, ModulePoint(final.module, "input"), before)
    return _Entrance(skipped[:-1], ModulePoint(blocks[layer], "output"), before)


def _second_half(model: nn.Module, table: dict[str, ModulePoint], block: str) -> Callable[[Tensor], Tensor] | None:
    """What a block does to its stream after attention; None if it is not one of the two forms that the table has."""
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
    """Give the modules before the entrance a `forward` that computes nothing, and the one at it one that takes it.

    A module that runs several times in a pass is entered the first time.
    """

    stand_in = torch.zeros_like(stream)

    def skip(*args: Any, **kwargs: Any) -> Tensor:
        return stand_in

    def put_out(*args: Any, **kwargs: Any) -> Tensor:
        reached.append(True)
        return stream

    def put_in(forward: Callable) -> Callable:
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
    routes[at] = put_in(at.forward) if entrance.at.side == "input" else put_out
    own = {module: vars(module).get("forward") for module in routes}
    try:
        for module, route in routes.items():
            vars(module)["forward"] = route
        yield
    finally:
        for module, forward in own.items():
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Keep the weights out of what gradients are recorded for."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def logits_of(output: Any) -> Float[Tensor, "batch pos d_vocab"]:
    """The logits in what a model returns: itself, its first element, or a Hugging Face output's first field.

    Raises ValueError for anything else.
    """
    logits = first_result(output)
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        found = f"{tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"expected a model that returns logits (batch, pos, d_vocab), found {found}")
    return logits
