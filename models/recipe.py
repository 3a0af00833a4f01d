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
    """Return groups of parameters for AdamW, each {name, params, lr, weight_decay}.

    `matrices`: parameters with two or more axes outside nn.Embedding, with lr_matrices / (d_model / base_width) and
    weight decay. `other`: vectors (biases, LayerNorms) and embeddings, with lr_other and no decay. `head`: if lr_head
    is given, all parameters of `head`, an untrained part of the net, with lr_head and no decay.
    """
    head_parameters = [] if head is None or lr_head is None else list(head.parameters())
    head_ids = {id(parameter) for parameter in head_parameters}
    embeddings = {id(module.weight) for module in net.modules() if isinstance(module, nn.Embedding)}
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad and id(parameter) not in head_ids]
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
        {"name": "head", "params": head_parameters, "lr": lr_head, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def lr_factor(step: int, max_steps: int, warmup: float, final: float) -> float:
    """Return the factor of the learning rate at step `step` (from 0).

    It rises linearly to 1 over the first `warmup * max_steps` steps and then falls along half a cosine to `final`.

    Examples:
        >>> [lr_factor(step, 10, 0.2, 0.1) for step in (0, 1, 2, 10)]
        [0.5, 1.0, 1.0, 0.1]
    """
    warmup_steps = math.ceil(warmup * max_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
