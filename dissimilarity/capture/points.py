"""Module points: the input or the result of one module of a model, by the module's path; and lists of blocks."""

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


def is_list_of_blocks(path: str, module: nn.Module) -> bool:
    """Return whether a module may be a list of blocks: modules with parts of their own, or a list called `blocks`."""
    children = list(module.children())
    if not isinstance(module, (nn.ModuleList, nn.Sequential)) or not children:
        return False
    return path.rpartition(".")[2] == "blocks" or all(any(child.children()) for child in children)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the modules in the outermost lists of blocks, in the order of definition."""
    lists: list[str] = []
    blocks: dict[nn.Module, None] = {}
    for path, module in model.named_modules():
        if is_list_of_blocks(path, module) and not any(path.startswith(f"{outer}.") for outer in lists):
            lists.append(path)
            blocks |= dict.fromkeys(module.children())
    return list(blocks)
