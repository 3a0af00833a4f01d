"""Load a model of transformers whose weights stay in their files, for models larger than memory.

transformers finds out which tensor of which file is which weight, as it does for ``device_map="disk"``. Tensors that it
would put together while loading (the experts of some mixtures) go to a temporary folder.
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dissimilarity.capture.offloaded import offload


def from_files(load: Callable[..., tuple[nn.Module, dict[str, Any]]]) -> tuple[nn.Module, dict[str, Any]]:
    """Return a model that reads the weights of a block when the block runs, and the loading info.

    Args:
        load: ``from_pretrained`` of a class of transformers, with everything but the placement.
    """
    from accelerate.hooks import remove_hook_from_submodules

    folder = tempfile.mkdtemp(prefix="weights-")
    try:
        model, report = load(device_map={"": "disk"}, offload_folder=folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    weights = next(hook.weights_map.dataset for hook in hooks if getattr(hook, "weights_map", None) is not None)
    remove_hook_from_submodules(model)
    for config in {id(part): part for part in (model.config, model.config.get_text_config())}.values():
        config.use_cache = False  # keys and values of all blocks would pile up
    offload(model, weights.__getitem__, torch.device("cpu"))
    return model, report
