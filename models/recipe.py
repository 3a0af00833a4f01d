"""The training recipe of the TransformerLens toy models: parameter groups and learning rate over time.

Source: solu_project's published training script and configs; numbers in conf/optim/adamw.yaml.
"""

import math
from typing import Any

from torch import nn


def parameter_groups(
    net: nn.Module,
    *,
    d_model: int,
    lr_matrices: float,
    base_width: int,
    lr_other: float,
    weight_decay: float,
    head: nn.Module | None = None,
    lr_head: float | None = None,
) -> list[dict[str, Any]]:
    """Groups for AdamW, each {name, params, lr, weight_decay}.

    `matrices`: parameters of two or more axes outside nn.Embedding; lr = lr_matrices / (d_model / base_width), decayed.
    `other`: vectors (biases, LayerNorms) and embeddings; lr = lr_other, never decayed.
    `head`: where lr_head is given, all of `head`, a part of the net that has learned nothing yet; never decayed.
    """
    of_head = [] if head is None or lr_head is None else list(head.parameters())
    apart = {id(parameter) for parameter in of_head}
    embeddings = {id(module.weight) for module in net.modules() if isinstance(module, nn.Embedding)}
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad and id(parameter) not in apart]
    matrices = [p for p in trained if p.ndim > 1 and id(p) not in embeddings]
    other = [p for p in trained if p.ndim <= 1 or id(p) in embeddings]
    groups = [
        {
            "name": "matrices",
            "params": matrices,
            "lr": lr_matrices / (d_model / base_width),
            "weight_decay": weight_decay,
        },
        {"name": "other", "params": other, "lr": lr_other, "weight_decay": 0.0},
        {"name": "head", "params": of_head, "lr": lr_head, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def lr_factor(step: int, max_steps: int, warmup: float, final: float) -> float:
    """What the learning rate of update number `step` (from 0) is multiplied with.

    Rises linearly to 1 over the first `warmup * max_steps` updates, then falls along half a cosine to `final`.
    """
    warmup_steps = math.ceil(warmup * max_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
