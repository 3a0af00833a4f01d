"""Models larger than memory: weights stay in files, and each block reads its own when it runs.

A part of such a model is a block, or a module outside of the blocks with weights of its own (an embedding, a head). Its
weights are on the meta device except while it runs, or until ``release`` if the model is held. Norms and biases are
small and always there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dissimilarity.capture.points import blocks_of

RESIDENT = 2**16
"""The most numbers in a weight that stays in memory."""

Weight = tuple[nn.Module, str]
"""A module and the name by which it holds a weight."""


class Offloaded:
    """The weights of a model that are read as it runs.

    Args:
        model: the model, with weights on the meta device.
        read: returns a weight by its name in the model.
        device: where the model runs.
    """

    def __init__(self, model: nn.Module, read: Callable[[str], Tensor], device: torch.device) -> None:
        self.model, self.read, self.device = model, read, device
        self.is_held = False
        self.change: Callable[[Tensor], Tensor] = _unchanged
        self.names: dict[Weight, str] = {}
        self.loaded: dict[Weight, nn.Parameter | None] = {}
        for path, module in model.named_modules():
            for name, weight in module._parameters.items():
                if weight is None or not weight.is_meta:
                    continue
                key = f"{path}.{name}".removeprefix(".")
                if weight.numel() <= RESIDENT:
                    module._parameters[name] = _fixed(read(key).to(device))
                else:
                    self.names[module, name] = key
        self._attach(model)

    def _attach(self, model: nn.Module) -> None:
        """Let every part read its weights before it runs, and drop them afterwards."""
        blocks = blocks_of(model)
        inside = {module: block for block in blocks for module in block.modules()}
        parts: dict[nn.Module, list[Weight]] = {}
        for module, name in self.names:
            parts.setdefault(inside.get(module, module), []).append((module, name))
        for part, weights in parts.items():
            part.register_forward_pre_hook(partial(self._load, weights))
            part.register_forward_hook(self._drop, always_call=True)

    def _load(self, weights: list[Weight], module: nn.Module, args: tuple) -> None:
        for owner, name in weights:
            if (owner, name) not in self.loaded:
                self.loaded[owner, name] = owner._parameters[name]
                owner._parameters[name] = _fixed(self.change(self.read(self.names[owner, name]).to(self.device)))

    def _drop(self, module: nn.Module, args: tuple, output: Any) -> None:
        if not self.is_held:
            self.release()

    def to(self, device: torch.device) -> None:
        """Move the weights and buffers that are in memory to a device, where the model runs from now on."""
        for module in self.model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and not tensor.is_meta:
                        tensors[name] = _like(tensor, tensor.to(device))
        self.device = device

    def release(self) -> None:
        """Drop all weights that were read."""
        for (owner, name), weight in self.loaded.items():
            owner._parameters[name] = weight
        self.loaded.clear()


_offloaded: WeakKeyDictionary[nn.Module, Offloaded] = WeakKeyDictionary()


def offload(model: nn.Module, read: Callable[[str], Tensor], device: torch.device) -> None:
    """Let a model whose weights are on the meta device read them as it runs.

    Args:
        model: the model; its small weights are read at once.
        read: returns a weight by its name in the model.
        device: where the model runs.

    Examples:
        >>> with torch.device("meta"):
        ...     model = nn.Linear(300, 300, bias=False)
        >>> offload(model, lambda name: torch.ones(300, 300), torch.device("cpu"))
        >>> model(torch.ones(1, 300)).sum().item(), model.weight.is_meta
        (90000.0, True)
    """
    weights = Offloaded(model, read, device)
    for module in model.modules():
        _offloaded[module] = weights


def offloaded(module: nn.Module) -> Offloaded | None:
    """Return the weights of a model, or of a module inside of it, that are read as it runs; None if all are there."""
    return _offloaded.get(module)


def moved(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to a device; if its weights are read as it runs, move only those in memory.

    Examples:
        >>> moved(nn.Linear(2, 3), torch.device("meta")).weight.is_meta
        True
    """
    weights = offloaded(model)
    if weights is None:
        return model.to(device)
    weights.to(device)
    return model


def has_no_values(model: nn.Module) -> bool:
    """Return whether some weights are on the meta device, and nothing reads them as the model runs.

    Examples:
        >>> has_no_values(nn.Linear(2, 3)), has_no_values(nn.Linear(2, 3, device="meta"))
        (False, True)
    """
    is_read = offloaded(model) is not None or any(hasattr(module, "_hf_hook") for module in model.modules())
    return not is_read and any(weight.is_meta for weight in model.parameters())


@contextmanager
def held(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Let every block keep its weights once it has run, until the function that this yields is called."""
    weights = offloaded(model)
    if weights is None:
        yield lambda: None
        return
    weights.is_held = True
    try:
        yield weights.release
    finally:
        weights.is_held = False
        weights.release()


@contextmanager
def in_float64(model: nn.Module) -> Iterator[None]:
    """Run a model with its weights and buffers in float64."""
    with _exchanged(model, Tensor.double, with_buffers=True):
        yield


@contextmanager
def rounded(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Run a model with its weights rounded to a precision."""
    with _exchanged(model, lambda weight: weight.to(dtype).to(weight.dtype), with_buffers=False):
        yield


@contextmanager
def nudged(model: nn.Module) -> Iterator[None]:
    """Run a model in float32 with every weight one rounding away from what it is, up or down."""
    with _exchanged(model, _one_rounding_away, with_buffers=False):
        yield


def _one_rounding_away(weight: Tensor) -> Tensor:
    if weight.dtype != torch.float32:
        return weight
    sign = 2 * (torch.arange(weight.numel(), device=weight.device) % 2).reshape(weight.shape) - 1
    return weight * (1 + sign * torch.finfo(torch.float32).eps)


@contextmanager
def _exchanged(model: nn.Module, change: Callable[[Tensor], Tensor], with_buffers: bool) -> Iterator[None]:
    """Run a model with other floating-point weights, also those that are yet to be read."""
    weights, own = offloaded(model), []
    changed: dict[int, Tensor] = {}  # tied weights stay one
    for module in model.modules():
        for tensors in (module._parameters, module._buffers)[: 1 + with_buffers]:
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_floating_point() and not tensor.is_meta:
                    own.append((tensors, name, tensor))
                    tensors[name] = _like(tensor, changed.setdefault(id(tensor), change(tensor.detach())))
    if weights is not None:
        weights.change = change
    try:
        yield
    finally:
        if weights is not None:
            weights.change = _unchanged
        for tensors, name, tensor in own:
            tensors[name] = tensor


def _like(tensor: Tensor, other: Tensor) -> Any:
    """Return another tensor in the place of a weight or of a buffer."""
    return _fixed(other) if isinstance(tensor, nn.Parameter) else other


def _fixed(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)


def _unchanged(weight: Tensor) -> Tensor:
    return weight
