"""Models whose weights are divided among processes: by FSDP, or as DTensors by a plan for tensor parallelism.

Their forward passes are collective: all processes run the same number of them and, with tensor parallelism, on the same
inputs. Therefore each process runs such a model on the whole probe set, and keeps its own share of the activations.

Sharded parts are recognized by their methods, because importing their classes takes a second.
"""

from torch import Tensor, nn


def is_sharded(model: nn.Module) -> bool:
    """Return whether a forward pass of the model needs other processes.

    Examples:
        >>> is_sharded(nn.Linear(2, 2))
        False
    """
    by_fsdp = any(hasattr(module, "_fsdp_wrapped_module") or is_gathered(module) for module in model.modules())
    return by_fsdp or any(hasattr(weight, "full_tensor") for weight in model.parameters())


def is_gathered(module: nn.Module) -> bool:
    """Return whether FSDP gathers weights of a module as it runs, which demands that no part of it runs before it."""
    return hasattr(module, "unshard")


def whole(activation: Tensor) -> Tensor:
    """Return an activation of which each process has a part (DTensor), or a term of a sum, as one tensor.

    Examples:
        >>> import torch
        >>> whole(torch.ones(2)).tolist()
        [1.0, 1.0]
    """
    return activation.full_tensor() if hasattr(activation, "full_tensor") else activation  # pyright: ignore


def reshard(model: nn.Module) -> None:
    """Free weights that FSDP gathered for a forward pass, and that it would free in the backward pass."""
    for module in model.modules():
        if is_gathered(module):
            module.reshard()  # pyright: ignore[reportCallIssue]
