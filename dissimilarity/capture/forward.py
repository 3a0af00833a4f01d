"""What every forward pass of the instrument shares: a model left as it was, and the first of a module's results."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dissimilarity.capture.random_state import restored_random_state


def first_result(value: Any) -> Any:
    """Return the first of a module's results, from a tuple, a list or a Hugging Face output; return a tensor unchanged.

    Examples:
        >>> first_result(("stream", "weights"))
        'stream'
    """
    is_collection = isinstance(value, (tuple, list)) or (hasattr(value, "to_tuple") and not isinstance(value, Tensor))
    return value[0] if is_collection else value


def with_first_result(value: Any, tensor: Tensor) -> Any:
    """Return a module's result with another tensor in place of `first_result`.

    Examples:
        >>> with_first_result(("stream", "weights"), torch.ones(1))
        (tensor([1.]), 'weights')
    """
    if isinstance(value, (tuple, list)):
        return type(value)((tensor, *value[1:]))
    if hasattr(value, "to_tuple") and not isinstance(value, Tensor):
        changed = copy.copy(value)
        changed[next(iter(changed))] = tensor
        return changed
    return tensor


def first_argument(args: tuple, kwargs: dict[str, Any]) -> Any:
    """Return what a module is called on: its first argument, by position or by name; None without one."""
    return args[0] if args else next(iter(kwargs.values()), None)


def with_first_argument(args: tuple, kwargs: dict[str, Any], tensor: Tensor) -> tuple[tuple, dict[str, Any]]:
    """Return arguments with another tensor in place of `first_argument`."""
    if args:
        return (tensor, *args[1:]), kwargs
    return args, {**kwargs, next(iter(kwargs)): tensor}


@contextmanager
def undisturbed(model: nn.Module, gradients: bool = False) -> Iterator[None]:
    """Run a model in eval mode, and restore it, the random number generators and autocast's cache afterwards.

    The flags are set on each module, not by `model.eval()`: a module may override `train`, and its flag may differ from
    its parent's. Modules that exchange their parts on short inputs (BigBird's attention), or their buffers on
    long ones (dynamic rotary embeddings), get back their own. A buffer that a module changes in place stays changed.

    Args:
        model: the model.
        gradients: whether to record gradients inside.

    Examples:
        >>> model = nn.Dropout(0.5)
        >>> with undisturbed(model):
        ...     model(torch.ones(3))
        tensor([1., 1., 1.])
        >>> model.training
        True
    """
    flags = [(module, module.training) for module in model.modules()]
    parts = [(module, dict(module._modules), dict(module._buffers), _settings(module)) for module, _ in flags]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    cuda = sorted({device.index for device in devices if device.type == "cuda" and device.index is not None})
    try:
        for module, _ in flags:
            module.training = False
        with (
            restored_random_state(cuda),
            torch.compiler.set_stance("force_eager"),
            torch.inference_mode(False),
            torch.set_grad_enabled(gradients),
        ):
            yield
    finally:
        for module, flag in flags:
            module.training = flag
        for module, children, buffers, settings in parts:
            vars(module).update(settings)
            module._buffers.update(buffers)
            if module._modules != children:
                module._modules.clear()
                module._modules.update(children)
        # Up to torch 2.9, a weight cast under no_grad stays in autocast's cache without its gradient: a training step
        # in the same autocast would not update that weight.
        torch.clear_autocast_cache()


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module that are plain values or tensors, such as its kind of attention."""
    return {name: value for name, value in vars(module).items() if isinstance(value, (str, int, float, Tensor))}
