"""Merge a plain LoRA adapter into weights as they are read, for models larger than memory.

Each matrix W becomes W + scale * B A in float32, as peft merges it. Other kinds of adapters need their base in memory.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from dissimilarity.loading.adapters import CONFIG, WEIGHTS
from dissimilarity.loading.untrusted import read_json, shown

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
"""Parts of the names in a file of peft around the path of a module."""
OTHER_KINDS = ("use_dora", "use_qalora", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices")
"""Settings of LoRA that do more than add one low-rank product of one scale to each matrix."""


def check_plain(folder: Path, argument: str) -> None:
    """Check that an adapter can be merged one block at a time.

    Args:
        folder: the folder of the adapter, checked by `adapters.base_of`.
        argument: the reference as the user wrote it, for messages.

    Raises:
        ValueError: it is of another kind; says what to type.
    """
    config = read_json(folder / CONFIG)
    kind = config.get("peft_type")
    other = [f"{key}={shown(str(config[key]))}" for key in OTHER_KINDS if config.get(key)]
    other += [] if kind == "LORA" else [f"peft_type={shown(kind)}"]
    other += [] if config.get("bias", "none") == "none" and not config.get("lora_bias") else ["a bias"]
    with safe_open(folder / WEIGHTS, "np") as file:
        names = [name for name in file.keys() if not name.endswith((A, B))]  # noqa: SIM118  it is no mapping
    if names or other:
        raise ValueError(
            f"{argument}: this adapter has {other[0] if other else shown(names[0])}, but block by block, only plain "
            "LoRA can be merged; leave out --block-by-block, or merge it: AutoPeftModelForCausalLM.from_pretrained("
            f"{str(folder)!r}).merge_and_unload().save_pretrained(FOLDER)"
        )


def with_lora(model: "nn.Module", read: Callable[[str], "Tensor"], folder: Path) -> Callable[[str], "Tensor"]:
    """Return a reader of the weights of a model with a LoRA adapter merged.

    Args:
        model: the model, of transformers, whose weights may be on the meta device.
        read: returns a weight of the base by its name in the model.
        folder: the folder of the adapter, checked by `check_plain`.

    Raises:
        ValueError: the adapter does not fit the model, or changes a weight that two modules share.
    """
    config: dict[str, Any] = read_json(folder / CONFIG)
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    products = _products(model, folder)

    def merged(name: str) -> "Tensor":
        weight = read(name)
        if name not in products:
            return weight
        key, is_transposed = products[name]
        with safe_open(folder / WEIGHTS, "pt") as file:
            product = file.get_tensor(key + B).float() @ file.get_tensor(key + A).float() * scale
        return weight + (product.T if is_transposed else product)

    return merged


def _products(model: "nn.Module", folder: Path) -> dict[str, tuple[str, bool]]:
    """Return for each weight that the adapter changes the name of its matrices, and whether the weight is transposed.

    Raises:
        ValueError: there is no such module, its weight is of another shape, or two modules share it.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    modules: dict[str, Any] = dict(model.named_modules())
    tied = [id(tensor) for _, tensor in model.named_parameters(remove_duplicate=False)]
    with safe_open(folder / WEIGHTS, "np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    products = {}
    for key in sorted({name.removesuffix(A).removesuffix(B) for name in shapes}):
        path = key.removeprefix(PREFIX)
        module = next((name for name in (path, path.removeprefix(prefix), prefix + path) if name in modules), None)
        weight = None if module is None else getattr(modules[module], "weight", None)
        if module is None or weight is None or key + A not in shapes or key + B not in shapes:
            raise ValueError(f"its adapter changes {shown(path)}, which its base does not have; use the base it is for")
        if tied.count(id(weight)) > 1:
            raise ValueError(f"its adapter changes {shown(path)}, whose weight is tied; leave out --block-by-block")
        is_transposed = type(modules[module]).__name__ == "Conv1D"
        shape = (shapes[key + B][0], shapes[key + A][1])
        if tuple(weight.shape) != (shape[::-1] if is_transposed else shape):
            raise ValueError(f"its adapter changes {shown(path)} of {tuple(weight.shape)} by a product of {shape}")
        products[f"{module}.weight"] = key, is_transposed
    return products
