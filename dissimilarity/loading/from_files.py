"""Load a model of transformers whose weights stay in their files, for models larger than memory.

Most files name their weights as the model does, and each weight is read from its place. For the others (experts that
transformers puts together, names of older versions) transformers finds out which tensors make up which weight. It then
reads all of them once, and writes those that it changed into a temporary folder.
"""

import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from dissimilarity.capture.offloaded import offload
from dissimilarity.loading.lora import with_lora

Loaded = tuple[Any, dict[str, Any]]
"""A model, and the loading info of ``from_pretrained``."""
Place = tuple[Path | None, str, tuple[int, ...]]
"""The file of a weight, its name there, and its shape; no file for one that is missing."""
Readable = tuple[Any, Callable[[str], Tensor], dict[str, Any]]
"""A model without weights, a reader of them, and the loading info."""


def from_files(
    kind: Any, config: Any, files: Sequence[Path], load: Callable[..., Loaded], adapter: Path | None = None
) -> Loaded:
    """Return a model that reads the weights of a block when the block runs, and the loading info.

    Args:
        kind: a class of transformers.
        config: the config of the model.
        files: its files of weights.
        load: ``from_pretrained`` of that class with everything but the placement.
        adapter: the folder of a plain LoRA adapter that is merged; None without one.

    Raises:
        ValueError: the weights are in pickles.
    """
    if any(path.suffix != ".safetensors" for path in files):
        raise ValueError("its weights are pickles, which can only be read whole; save it again as safetensors")
    model, read, report = _by_name(kind, config, files) or _by_transformers(load)
    offload(model, read if adapter is None else with_lora(model, read, adapter), torch.device("cpu"))
    return model, report


def _by_name(kind: Any, config: Any, files: Sequence[Path]) -> Readable | None:
    """Return a model and a reader of its weights; None if the files name or shape any of them otherwise."""
    from accelerate import init_empty_weights

    if getattr(config, "quantization_config", None) is not None:
        return None
    with init_empty_weights():
        model = kind.from_config(config, dtype=torch.float32)
    stored: dict[str, Place] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no mapping
                key = name.removeprefix("module.").removeprefix("_orig_mod.")
                stored[key] = path, name, tuple(file.get_slice(name).get_shape())
    prefix = f"{model.base_model_prefix}."
    names: dict[int, list[str]] = {}
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        names.setdefault(id(tensor), []).append(name)
    places: dict[str, Place] = {}
    missing, used = [], set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        aliases = [alias for tied in names[id(tensor)] for alias in (tied, tied.removeprefix(prefix), prefix + tied)]
        key = next((alias for alias in aliases if alias in stored), "")
        if key and stored[key][2] == tuple(tensor.shape):
            places[name] = stored[key]
            used.add(key)
        elif not key and "pooler" in name:  # often left out; `check_loaded` lets it
            places[name] = None, name, tuple(tensor.shape)
            missing.append(name)
        else:
            return None
    read = partial(_read, places)
    for name, buffer in model.named_buffers():
        if name in places:
            buffer.copy_(read(name))
    return model, read, {"missing_keys": missing, "unexpected_keys": [*stored.keys() - used], "mismatched_keys": []}


def _read(places: Mapping[str, Place], name: str) -> Tensor:
    """Return a weight in float32; the file is mapped for this one, so that no pages of it stay in memory."""
    path, stored, shape = places[name]
    if path is None:
        return torch.zeros(shape)
    with safe_open(path, "pt") as file:
        return file.get_tensor(stored).float()


def _by_transformers(load: Callable[..., Loaded]) -> Readable:
    """Return a model whose weights transformers has found, and a reader of them."""
    from accelerate.hooks import remove_hook_from_submodules

    folder = tempfile.mkdtemp(prefix="weights-")
    log = logging.getLogger("accelerate.big_modeling")
    level = log.level
    try:
        log.setLevel(logging.ERROR)  # it says of each model that weights are on the meta device
        model, report = load(device_map={"": "disk"}, offload_folder=folder)
        maps = (getattr(getattr(module, "_hf_hook", None), "weights_map", None) for module in model.modules())
        weights = next(weights.dataset for weights in maps if weights is not None)
        remove_hook_from_submodules(model)
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ValueError(
            f"its weights cannot be read block by block ({error}); leave out --block-by-block "
            "(study.block_by_block=true in a study)"
        ) from error
    finally:
        log.setLevel(level)
    weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    return model, weights.__getitem__, report
