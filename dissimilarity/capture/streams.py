"""Residual streams: the blocks of a network, found by what it computed in a trial.

The stream is what blocks pass on: each block reads what the one before it returned.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dissimilarity.capture.offloaded import offloaded
from dissimilarity.capture.parts import Parts, equal, parts_of, sites_of_parts
from dissimilarity.capture.points import ModulePoint, is_list_of_blocks
from dissimilarity.capture.site_names import ORDER
from dissimilarity.capture.trial import Call, Trial


@dataclass
class Block:
    """One block of a stream.

    Attributes:
        path: path of its module.
        parts: what it adds to the stream.
        sites: where its sites are read, by the last part of their names, in depth order.
        is_whole: whether its input is all of the stream, on which everything after it depends.
        is_whole_in_the_middle: whether its `resid_mid` is.
    """

    path: str
    parts: Parts
    sites: dict[str, ModulePoint]
    is_whole: bool = False
    is_whole_in_the_middle: bool = False


@dataclass
class Stream:
    """The residual stream of one network.

    Attributes:
        path: path of the list of its blocks.
        blocks: the blocks in order.
        embed: where tokens become vectors, if one module does that.
        ln_final: the norm after the last block, if there is one.
        shells: results of modules around their first tensor, by path, for those that return nothing else.
        is_whole: whether the result depends only on the stream after the last block.
    """

    path: str
    blocks: list[Block]
    embed: ModulePoint | None
    ln_final: ModulePoint | None
    shells: dict[str, Any] = field(default_factory=dict)
    is_whole: bool = False


def streams_of(trial: Trial) -> list[Stream]:
    """Return the streams of a network that was run, none inside another's blocks."""
    streams: list[Stream] = []
    for path, module in trial.modules.items():
        if any(path.startswith(f"{stream.path}.") for stream in streams) or not is_list_of_blocks(path, module):
            continue
        blocks = [f"{path}.{name}".removeprefix(".") for name, _ in module.named_children()]
        if _is_chain([trial.calls.get(block) for block in blocks], tuple(trial.tokens.shape)):
            streams.append(_stream(trial, path, blocks))
    if len(streams) == 1 and offloaded(trial.network) is None:  # whose weights each run reads again
        _test(trial, streams[0])
    return [stream for stream in streams if _is_passed_on(trial, stream)]


def _is_chain(calls: list[Call | None], tokens: tuple[int, ...]) -> bool:
    """Return whether modules ran once each, in order, on tensors (batch, pos, d) of one shape, that of the tokens."""
    shapes, orders = set(), []
    for call in calls:
        if call is None or call.times > 1 or call.reads is None or call.returns is None:
            return False
        orders.append(call.order)
        shapes |= {call.reads.shape, call.returns.shape}
    shape = tuple(shapes.pop())
    return not shapes and orders == sorted(orders) and len(shape) == 3 and shape[:2] in (tokens, tokens[::-1])


def _stream(trial: Trial, path: str, paths: list[str]) -> Stream:
    calls, modules = trial.calls, trial.modules
    blocks = []
    for number, name in enumerate(paths):
        sites = {"resid_pre": ModulePoint(name, "input"), "resid_post": ModulePoint(name, "output")}
        parts = parts_of(name, calls)
        if name != paths[-1] and not equal(calls[paths[number + 1]].reads, calls[name].returns):
            # The stream is what the next block reads, and the parts of this one do not add up to it.
            parts, sites["resid_post"] = Parts(), ModulePoint(paths[number + 1], "input")
        sites |= sites_of_parts(parts, name, calls, modules)
        sites = {site: sites[site] for site in ORDER if site in sites}
        blocks.append(Block(name, parts, sites))
    outside = {name: call for name, call in calls.items() if not name.startswith(f"{path}.") and call.times == 1}
    shells = {name: call.shell for name, call in calls.items() if call.shell is not None}
    return Stream(path, blocks, _embed(trial, outside), _final_norm(modules, outside, calls[paths[-1]]), shells)


def _embed(trial: Trial, calls: dict[str, Call]) -> ModulePoint | None:
    """Return where tokens become vectors: the result of the first innermost module that reads them."""
    for path, call in calls.items():
        reads_tokens = call.reads is not None and any(
            torch.equal(call.reads, tokens) for tokens in (trial.tokens, trial.tokens.T)
        )
        if reads_tokens and not any(trial.modules[path].children()) and call.returns is not None:
            return ModulePoint(path, "output")
    return None


def _final_norm(modules: dict[str, nn.Module], calls: dict[str, Call], last: Call) -> ModulePoint | None:
    """Return the result of the norm that reads what the last block returned."""
    for path, call in calls.items():
        is_norm = "norm" in type(modules[path]).__name__.lower()
        if is_norm and call.order > last.order and equal(call.reads, last.returns):
            return ModulePoint(path, "output")
    return None


def _test(trial: Trial, stream: Stream) -> None:
    """Find out where the stream is all that the rest of the pass depends on.

    Every second block reads its own stream, while everything before it is random. It must return what it returned in
    the trial, and the next block must read what it read there. The blocks between are entered in their middle, and what
    they return is random afterwards. Then the same with the other half of the blocks.
    """
    blocks = stream.blocks
    first = trial.calls[blocks[0].path].reads
    if first is None or first.shape[:2] != trial.tokens.shape:  # positions first: what is entered is (batch, pos, d)
        return
    follows, follows_from_the_middle = [False] * len(blocks), [False] * len(blocks)
    for half in (0, 1):
        changes = _changes(trial, stream, half)
        try:
            calls, result = trial.run(*changes)
        except Exception:  # a network that random streams break is not entered
            return
        for number, block in enumerate(blocks):
            returned = equal(calls[block.path].returns, trial.calls[block.path].returns)
            if number % 2 != half:
                follows_from_the_middle[number] = returned and block.parts.middle is not None
            elif number + 1 < len(blocks):
                following = blocks[number + 1].path
                follows[number] = returned and equal(calls[following].reads, trial.calls[following].reads)
            else:
                follows[number] = returned and equal(result, trial.result)
        if (len(blocks) - 1) % 2 != half:
            stream.is_whole = equal(result, trial.result)
    is_whole = stream.is_whole
    for number in reversed(range(len(blocks))):
        blocks[number].is_whole_in_the_middle = is_whole and follows_from_the_middle[number]
        is_whole = blocks[number].is_whole = is_whole and follows[number]


def _changes(trial: Trial, stream: Stream, half: int) -> tuple[dict[str, Tensor], dict[str, Callable]]:
    """Return what modules read and return instead of their own in a test of one half of the blocks."""
    generator = torch.Generator().manual_seed(half)

    def noise(tensor: Tensor) -> Tensor:
        return (torch.randn(tensor.shape, generator=generator) * float(tensor.std())).to(tensor.device, tensor.dtype)

    before: dict[str, Tensor] = {}
    after: dict[str, Callable[[Tensor], Tensor]] = {} if stream.embed is None else {stream.embed.module: noise}
    for number, block in enumerate(stream.blocks):
        call = trial.calls[block.path]
        assert call.reads is not None and call.returns is not None
        if number % 2 == half:
            before[block.path] = call.reads
            continue
        before[block.path] = noise(call.reads)
        if block.parts.middle is not None:
            middle = trial.calls[block.parts.middle.module]
            if block.parts.is_normed and middle.returns is not None:
                after[block.parts.middle.module] = partial(_instead, middle.returns)
            elif middle.reads is not None:
                before[block.path] = middle.reads
                after[block.parts.added[0]] = torch.zeros_like
        last = number == len(stream.blocks) - 1
        after[block.path] = partial(_instead, call.returns) if last else noise
    return before, after


def _instead(tensor: Tensor, original: Tensor) -> Tensor:
    return tensor


def _is_passed_on(trial: Trial, stream: Stream) -> bool:
    """Return whether each block reads what the one before returned, or at least all of the stream."""
    for block, following in pairwise(stream.blocks):
        reads = trial.calls[following.path].reads
        if not (following.is_whole or equal(reads, trial.calls[block.path].returns)):
            return False
    return stream.is_whole or len(stream.blocks) > 1
