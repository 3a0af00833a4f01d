"""The parts of a block: the modules whose tensors add up to its stream, found by what they computed in a trial.

    a norm before each part    resid_mid = resid_pre + attn_out, resid_post = resid_mid + mlp_out
    a norm after each sum      resid_mid = norm(resid_pre + attn_out), resid_post = norm(resid_mid + mlp_out)
    parts in parallel          resid_post = resid_pre + attn_out + mlp_out
    one part                   resid_post = resid_pre + attn_out, or resid_pre + mlp_out

Where no tensors add up (a multiplier, a gate, a third part), only the stream before and after a block has a name. If
what a part returns passes a norm before it is added (Gemma 2), its output is what that norm returns.
"""

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dissimilarity.capture.points import ModulePoint
from dissimilarity.capture.trial import Call

ATTENTION = re.compile(r"att(n|ention)", re.IGNORECASE)
MLP = re.compile(r"mlp|ffn?|feed_?forward|fc_?\d|dense|linear_?\d|moe|expert", re.IGNORECASE)
"""What the modules of the two parts are called, in their paths or classes."""
ROUNDINGS = 2
"""Rounding errors by which equal tensors may differ."""


@dataclass(frozen=True)
class Parts:
    """What a block adds to its stream.

    Attributes:
        added: the modules whose results it adds, in order: two, one or none.
        middle: where the stream between two parts is read; None if there is none.
        is_normed: whether a norm follows each sum, and returns the stream.
    """

    added: tuple[str, ...] = ()
    middle: ModulePoint | None = None
    is_normed: bool = False


def parts_of(block: str, calls: dict[str, Call]) -> Parts:
    """Return the parts of a block.

    Args:
        block: path of its module.
        calls: what modules did, by path.
    """
    pre, post = calls[block].reads, calls[block].returns
    assert pre is not None and post is not None
    inside = _inside(block, calls)
    read, returned = _Tensors(inside, "reads", pre), _Tensors(inside, "returns", pre)
    for first in returned.paths:
        readers = read.completing(pre + returned[first])
        for middle in readers[:1]:
            for second in returned.completing(post, read[middle])[:1]:
                return Parts((first, second), ModulePoint(middle, "input"))
        for norm in [path for path in readers if path in returned.paths][-1:]:  # the others have it inside of them
            for last in [path for path in returned.completing(post) if path in read.paths]:
                for second in returned.completing(read[last], returned[norm])[:1]:
                    middle = returned.completing(returned[norm])[0]
                    return Parts((first, second), ModulePoint(middle, "output"), is_normed=True)
    for first in returned.paths:
        for second in returned.completing(post, pre + returned[first]):
            if not (f"{first}.".startswith(f"{second}.") or second.startswith(f"{first}.")):
                return Parts((first, second))
    return Parts(tuple(returned.completing(post, pre)[:1]))


class _Tensors:
    """The tensors of the stream's shape that modules read or returned, by path, those of outer modules first."""

    def __init__(self, calls: dict[str, Call], side: Literal["reads", "returns"], like: Tensor) -> None:
        by_depth = sorted(calls, key=lambda path: (path.count("."), calls[path].order))
        tensors = {path: getattr(calls[path], side) for path in by_depth}
        self.paths = [
            path
            for path, tensor in tensors.items()
            if tensor is not None and tensor.shape == like.shape and tensor.any()
        ]
        self.tensors = torch.stack([like, *(tensors[path].to(like.device) for path in self.paths)])[1:]

    def __getitem__(self, path: str) -> Tensor:
        return self.tensors[self.paths.index(path)]

    def completing(self, total: Tensor, tensor: Tensor | float = 0.0) -> list[str]:
        """Return the modules whose tensor, added to another, gives a total."""
        return [
            path for path, is_one in zip(self.paths, _are_equal(self.tensors + tensor, total), strict=True) if is_one
        ]


def sites_of_parts(
    parts: Parts, block: str, calls: dict[str, Call], modules: dict[str, nn.Module]
) -> dict[str, ModulePoint]:
    """Return where the parts of a block are read, by the last part of the names of their sites.

    A part is called attention or an MLP if its modules are; others (state spaces, convolutions) have no name.
    """
    sites = {} if parts.middle is None else {"resid_mid": parts.middle}
    for path in parts.added:
        steps = [path[: dot.start()] for dot in re.finditer(r"\.|$", path) if dot.start() > len(block)]
        text = " ".join([path[len(block) :], *(type(modules[step]).__name__ for step in steps)])
        if ATTENTION.search(text):
            sites["attn_out"] = ModulePoint(path, "output")
        elif MLP.search(text):
            sites["mlp_out"] = ModulePoint(path, "output")
            sites |= _neurons(calls[path], _inside(block, calls), modules)
    return sites


def _neurons(mlp: Call, calls: dict[str, Call], modules: dict[str, nn.Module]) -> dict[str, ModulePoint]:
    """Return where the neurons of an MLP are read: before the activation, after it, and as they leave the MLP.

    `mlp.post` is the activation of `mlp.pre`, times a gate if there is one. If a norm follows the activation,
    `mlp.post` is what the norm returns, and `mlp.mid` what it reads.
    """
    linear = {
        path: call for path, call in calls.items() if getattr(getattr(modules[path], "weight", None), "ndim", 0) == 2
    }
    down = [path for path, call in linear.items() if equal(call.returns, mlp.returns) or equal(call.returns, mlp.reads)]
    post = linear[down[-1]].reads if down else None
    if post is None:
        return {}
    sites = {"mlp.post": ModulePoint(down[-1], "input")}
    results = [call.returns for call in calls.values() if call.returns is not None]
    for path, activation in calls.items():
        up = [name for name, call in linear.items() if equal(call.returns, activation.reads)]
        neurons = activation.returns
        if not up or path in linear or neurons is None or equal(neurons, activation.reads):
            continue
        sites = {"mlp.pre": ModulePoint(up[0], "output"), **sites}
        gates = [gate for gate in results if gate.shape == neurons.shape]
        if equal(neurons, post) or any(equal(neurons * gate, post) for gate in gates):
            return sites
        if any(equal(norm.reads, neurons) and equal(norm.returns, post) for norm in calls.values()):
            return {**sites, "mlp.mid": ModulePoint(path, "output")}
        del sites["mlp.pre"]
    return sites


def _inside(block: str, calls: dict[str, Call]) -> dict[str, Call]:
    return {path: call for path, call in calls.items() if path.startswith(f"{block}.") and call.times == 1}


def equal(tensor: Tensor | None, other: Tensor | None) -> bool:
    """Return whether two tensors are equal up to rounding."""
    if tensor is None or other is None or tensor.shape != other.shape:
        return False
    if not (tensor.is_floating_point() and other.is_floating_point()):
        return torch.equal(tensor, other)
    return bool(_are_equal(tensor[None], other)[0])


def _are_equal(tensors: Tensor, other: Tensor) -> list[bool]:
    """Return which of several tensors equal another one up to rounding."""
    precision = ROUNDINGS * max(torch.finfo(tensors.dtype).eps, torch.finfo(other.dtype).eps)
    size = other.double().abs()
    close = (tensors.double() - other.double()).abs() <= precision * (size + size.mean())
    return close.flatten(1).all(1).tolist()
