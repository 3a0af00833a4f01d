"""A trial: what the modules of a network read and return when it runs on a few random tokens.

Names of sites are decided by what a network computes, not by its class. So that equalities which hold only at
initialization do not count (a scale of 1, an output of 0), the trial runs with other numbers in place of scales,
biases and zero weights. The network keeps its own.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dissimilarity.capture.forward import (
    first_argument,
    first_result,
    undisturbed,
    with_first_argument,
    with_first_result,
)
from dissimilarity.capture.offloaded import has_no_values
from dissimilarity.capture.sharding import is_sharded, whole

LENGTH = 3
"""Tokens per sequence of a trial, unless the network takes another number only."""
LONGEST = 4096
"""The longest other number that is tried if positions or masks show it."""
LONGEST_GUESS = 512
"""The longest that is tried otherwise: a model that fails for another reason should not cost much."""
TRIES = 8
"""The most other numbers that are tried."""
LENGTHS = re.compile("(len|length|seq|pos|positions?|ctx|context|(block|context)_size|tokens)$", re.IGNORECASE)
"""How the name of an attribute ends that says how many tokens a network takes; that of a token does not."""
LARGE = 1e3
"""No weight of a model that has not diverged."""
VECTOR = 2**20
"""The most numbers in a scale or a bias."""
NO_MATTER_OF_LENGTH = (TypeError, AttributeError, NotImplementedError)
"""Errors of a network that wants more than tokens."""


@dataclass
class Call:
    """What a module did in a trial.

    Attributes:
        order: its place among all calls, by when they began.
        times: how often the module was called.
        reads: its first argument in the first call, if that is a tensor.
        returns: its first result in the first call, if that is a tensor.
        shell: its result around that tensor; None if there are other tensors in it, which make its run necessary.
    """

    order: int
    times: int = 1
    reads: Tensor | None = None
    returns: Tensor | None = None
    shell: Any = None


@dataclass(frozen=True)
class Trial:
    """A network that runs on tokens, and the calls of its modules.

    Attributes:
        network: the network.
        modules: its modules, by path in the model.
        tokens: what it runs on.
        weights: what stands for some of its weights.
        is_encoder_decoder: whether it is run with the tokens for its decoder, too.
        calls: what its modules did, by path in the model.
        result: the first of its results.
    """

    network: nn.Module
    modules: dict[str, nn.Module]
    tokens: Tensor
    weights: dict[str, Tensor]
    is_encoder_decoder: bool
    calls: dict[str, Call]
    result: Any

    def run(
        self, before: Mapping[str, Tensor], after: Mapping[str, Callable[[Tensor], Tensor]]
    ) -> tuple[dict[str, Call], Any]:
        """Run the network, with other streams if any are given.

        Args:
            before: what some modules read instead of their first argument, by path.
            after: what becomes of the first result of some modules, by path.

        Returns:
            the calls, with what modules would have read and what they returned, and the first result.
        """
        with _recorded(self.modules, before, after) as calls:
            return calls, first_result(_run(self.network, self.weights, self.tokens, self.is_encoder_decoder))


@dataclass(frozen=True)
class Failure:
    """A network that reads tokens, and ran on none of the random ones.

    Attributes:
        network: name of its class; the network itself would stay in memory with this.
        lengths: tokens per sequence that were tried.
        error: what the last of these raised, as text.
    """

    network: str
    lengths: tuple[int, ...]
    error: str

    def __str__(self) -> str:
        """Return this as a part of a sentence."""
        return f"{self.network} does not run on {_alternatives(self.lengths)} random tokens ({self.error})"


def trial(
    network: nn.Module, modules: dict[str, nn.Module], lengths: Sequence[int] = (), short: bool = True
) -> Trial | Failure | None:
    """Run a network on a few random tokens; None if it reads none, or has no weights.

    Args:
        network: any module.
        modules: those of its modules that are recorded, by the path that they get in the result.
        lengths: numbers of tokens per sequence that it may want.
        short: whether it is tried on a few tokens first.
    """
    embedding = _embedding(network)
    if embedding is None or has_no_values(network):
        return None
    first = (*([LENGTH] if short else []), *lengths)
    errors: dict[int, str] = {}
    wants_more = False
    for length in dict.fromkeys((*first, *_sizes(network, embedding))):
        if length not in first and wants_more:
            break
        try:
            return _tried(network, modules, embedding, length)
        except Exception as error:  # whatever a network raises that wants other inputs
            wants_more |= isinstance(error, NO_MATTER_OF_LENGTH)
            errors[length] = _first_line(error)
    return Failure(type(network).__name__, tuple(errors), list(errors.values())[-1])


@contextmanager
def lengths_explained(model: nn.Module, inputs: Tensor) -> Iterator[None]:
    """Run a model on tokens, and if it takes other numbers of them only, raise an error that says which.

    Args:
        model: any module.
        inputs: what it runs on inside.

    Raises:
        ValueError: the model runs on another number of random tokens, and not on this one.

    Examples:
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(24, 2))
        >>> tokens = torch.zeros(2, 5, dtype=torch.long)
        >>> with lengths_explained(model, tokens):
        ...     model(tokens)
        Traceback (most recent call last):
        ValueError: Sequential cannot read 5 tokens: it runs on 6 random tokens, not on 5, 3 or 24 \
(RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x20 and 24x2)); pass sequences of 6 tokens
    """
    try:
        yield
    except Exception as error:  # whatever a network raises
        embedding = _embedding(model)
        if inputs.ndim != 2 or inputs.is_floating_point() or embedding is None or is_sharded(model):
            raise
        length = inputs.shape[1]
        lengths = dict.fromkeys((length, LENGTH, *_sizes(model, embedding)))
        failed = [other for other in lengths if not _runs(model, embedding, other)]
        runs = [other for other in lengths if other not in failed]
        if length in runs or not runs:
            raise
        nearest = min(runs, key=lambda other: abs(other - length))
        advice = "shorter sequences" if LENGTH in runs else f"sequences of {nearest} tokens"
        raise ValueError(
            f"{type(model).__name__} cannot read {length} tokens: it runs on {_alternatives(sorted(runs))} random "
            f"tokens, not on {_alternatives(failed)} ({_first_line(error.__cause__ or error)}); pass {advice}"
        ) from error


def _runs(network: nn.Module, embedding: Any, length: int) -> bool:
    """Return whether a network runs on random sequences of a length."""
    try:
        _tried(network, {}, embedding, length)
    except Exception:  # as above
        return False
    return True


def _alternatives(lengths: Sequence[int]) -> str:
    *others, last = map(str, lengths)
    return f"{', '.join(others)} or {last}" if others else last


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip(": ").splitlines()[0]


def _tried(network: nn.Module, modules: dict[str, nn.Module], embedding: Any, length: int) -> Trial:
    """Run a network on a few random sequences of a length."""
    generator = torch.Generator().manual_seed(0)
    vocabulary, padding = len(embedding.weight), embedding.padding_idx
    # Another number of sequences than of tokens, so that a transposed stream shows.
    tokens = torch.randint(vocabulary, (2 if length != 2 else 3, length), generator=generator)
    if padding is not None:
        tokens[tokens == padding] = (padding + 1) % vocabulary
    device = next((weight.device for weight in network.parameters() if not weight.is_meta), torch.device("cpu"))
    tokens, weights = tokens.to(device), _other_weights(network, generator)
    is_encoder_decoder = bool(getattr(getattr(network, "config", None), "is_encoder_decoder", False))
    tried = Trial(network, modules, tokens, weights, is_encoder_decoder, {}, None)
    calls, result = tried.run({}, {})
    if isinstance(result, Tensor) and result.is_floating_point() and not result.isfinite().all():
        weights |= _in_place_of_diverged(network, weights, generator)
        calls, result = tried.run({}, {})
    return replace(tried, calls=calls, result=result)


def _sizes(network: nn.Module, embedding: Any) -> list[int]:
    """Return the lengths that a network may be made for, by its tensors and numbers, the likeliest first."""
    width = embedding.weight.shape[1]
    tables, mixed, named = [], [], []
    for module in network.modules():
        tensors = [*module.parameters(False), *module.buffers(False)]
        if module is not embedding and not isinstance(module, nn.Linear):  # positions, in any kind of module
            tables += [tensor.shape[-2] for tensor in tensors if tensor.ndim > 1 and tensor.shape[-1] == width]
        for buffer in module.buffers(False):
            is_mask = buffer.ndim > 1 and buffer.shape[-1] == buffer.shape[-2]
            tables += [buffer.shape[-1]] if is_mask or (buffer.ndim > 0 and not buffer.is_floating_point()) else []
            mixed += buffer.shape[-2:] if buffer.ndim > 1 else ()  # a mask or a bias for queries and keys apart
        if isinstance(module, (nn.Linear, nn.Conv1d)):  # which may mix tokens, or read all of them at once
            size = module.in_features if isinstance(module, nn.Linear) else module.in_channels
            mixed += [size, size // width]
        if isinstance(module, nn.LayerNorm):
            mixed.append(module.normalized_shape[0])
        named += [value for name, value in vars(module).items() if type(value) is int and LENGTHS.search(name)]
    mixed = [size for size in mixed if size != width] + [width] * (width in mixed)
    sizes = [size for size in tables if size <= LONGEST]
    sizes += [size for size in [*named, *mixed] if size <= LONGEST_GUESS]
    return [size for size in dict.fromkeys(sizes) if 1 < size != LENGTH][:TRIES]


def _run(network: nn.Module, weights: dict[str, Tensor], tokens: Tensor, is_encoder_decoder: bool) -> Any:
    decoder = {"decoder_input_ids": tokens} if is_encoder_decoder else {}
    with undisturbed(network):
        if weights:
            return torch.func.functional_call(network, weights, (tokens,), decoder)
        return network(tokens, **decoder)


def _embedding(network: nn.Module) -> Any:
    """Return the embedding of the tokens: the one that the network names, or the first."""
    try:
        named = network.get_input_embeddings() if hasattr(network, "get_input_embeddings") else None  # pyright: ignore
    except Exception:  # a class that inherits the method and has none
        named = None
    if getattr(getattr(named, "weight", None), "ndim", 0) == 2 and hasattr(named, "padding_idx"):
        return named
    return next((module for module in network.modules() if isinstance(module, nn.Embedding)), None)


def _other_weights(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Return other numbers for scales, biases and weights that are zero; none if the weights are sharded."""
    if is_sharded(network):
        return {}
    weights = {}
    for name, weight in network.named_parameters():
        if weight.is_floating_point() and not weight.is_meta and (_is_vector(weight) or _begins_with_zeros(weight)):
            weights[name] = _scaled(weight, generator) + _like(
                weight, 0.1 * torch.randn(weight.shape, generator=generator)
            )
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point() and _is_vector(buffer):
            weights[name] = _scaled(buffer, generator)
    return weights


def _in_place_of_diverged(
    network: nn.Module, weights: dict[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Return small numbers for weights that are not finite, or that have grown so large that nothing else is."""
    diverged = {}
    for name, weight in network.named_parameters():
        values = weights.get(name, weight.detach())
        if values.is_floating_point() and not values.is_meta and not (values.abs() < LARGE).all():
            diverged[name] = _like(weight, 0.1 * torch.randn(weight.shape, generator=generator))
    return diverged


def _is_vector(weight: Tensor) -> bool:
    return weight.numel() == max(weight.shape, default=1) and weight.numel() <= VECTOR


def _begins_with_zeros(weight: Tensor) -> bool:
    return weight.numel() > 0 and not weight.detach()[(0,) * (weight.ndim - 1)][:64].any()


def _scaled(weight: Tensor, generator: torch.Generator) -> Tensor:
    return weight.detach() * _like(weight, 0.75 + 0.5 * torch.rand(weight.shape, generator=generator))


def _like(weight: Tensor, values: Tensor) -> Tensor:
    return values.to(weight.device, weight.dtype)


def _shell(output: Any) -> Any:
    values = output if isinstance(output, (tuple, list)) else () if isinstance(output, Tensor) else output.to_tuple()
    return None if any(value is not None for value in values[1:]) else with_first_result(output, torch.empty(0))


@contextmanager
def _recorded(
    modules: Mapping[str, nn.Module], before: Mapping[str, Tensor], after: Mapping[str, Callable[[Tensor], Tensor]]
) -> Iterator[dict[str, Call]]:
    """Record the calls of modules, and change what some read and return."""
    calls: dict[str, Call] = {}
    with ExitStack() as stack:
        for path, module in modules.items():
            read = partial(_read, calls, path, before.get(path))
            returned = partial(_returned, calls, path, after.get(path))
            stack.callback(module.register_forward_pre_hook(read, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(returned).remove)
        yield calls


def _read(
    calls: dict[str, Call],
    path: str,
    instead: Tensor | None,
    module: nn.Module,
    args: tuple,
    kwargs: dict[str, Any],
) -> Any:
    """Record what a module reads at its first call, and give it something else instead: a hook."""
    if path in calls:
        calls[path].times += 1
        return None
    value = first_argument(args, kwargs)
    is_read = isinstance(value, Tensor) and not value.is_meta
    calls[path] = Call(len(calls), reads=whole(value.detach()).clone() if is_read else None)
    return None if instead is None else with_first_argument(args, kwargs, instead.clone())


def _returned(
    calls: dict[str, Call],
    path: str,
    change: Callable[[Tensor], Tensor] | None,
    module: nn.Module,
    args: tuple,
    output: Any,
) -> Any:
    """Record what a module returns at its first call, and change it: a hook."""
    value = first_result(output)
    if calls[path].times > 1 or not isinstance(value, Tensor) or value.is_meta:
        return None
    calls[path].returns, calls[path].shell = whole(value.detach()).clone(), _shell(output)
    return None if change is None else with_first_result(output, change(value))
