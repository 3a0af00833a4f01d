"""Module points: the input or the result of one module of a model, by the module's path."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

Side = Literal["input", "output"]

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


@dataclass(frozen=True)
class ModulePoint:
    """Where a site is read.

    Attributes:
        module: path of the module.
        side: its first argument (`input`) or its result (`output`).
    """

    module: str
    side: Side


def named_modules(model: nn.Module) -> dict[str, str]:
    """Map each module's path without wrappers (compile, FSDP, activation checkpointing) to its actual path.

    A wrapper and the module inside it have the same path without wrappers. The inner one counts, because it returns the
    tensor that the model itself computed.
    """
    paths = {}
    for path, _ in model.named_modules():
        paths[".".join(part for part in path.split(".") if part not in WRAPPERS)] = path
    return paths
