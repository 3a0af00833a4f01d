"""Weights that do not fit the model they are loaded into: missing, of other shapes, or without a place."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

WRAPPED = r"^(?:_orig_mod\.|module\.)+"
"""What torch.compile and DDP put before the names of weights; the weights are the same."""
COMPUTED = re.compile(r"(.*\.)?(position_ids|token_type_ids|inv_freq|masked_bias|attn\.bias|attention\.bias)")
"""Buffers that older versions of transformers saved, and newer ones compute."""
SHOWN = 4


def check_loaded(
    report: Mapping[str, Any], model: nn.Module, where: str, settings: str = "config.json", of_a_body: bool = False
) -> None:
    """Reject a model of which transformers would leave out weights, or fill them with random numbers.

    Args:
        report: the loading info of `from_pretrained`.
        model: what it loaded.
        where: names the reference and the file, for messages.
        settings: what says which weights there are, for messages.
        of_a_body: whether the file may hold a head for another task, which the model lacks.

    Raises:
        ValueError: names the weights.
    """
    # BERT's pooler comes after every site, and is often left out.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    unexpected = sorted(name for name in report["unexpected_keys"] if not COMPUTED.fullmatch(name))
    if of_a_body:
        body = {getattr(model, "base_model_prefix", ""), *(name for name, _ in model.named_children())}
        unexpected = [name for name in unexpected if name.partition(".")[0] in body]
    if missing:
        instead = f"; it has {_listed(unexpected)}, which have no place there" if unexpected else ""
        raise ValueError(
            f"{where} lacks weights that its {settings} requires: {_listed(missing)}{instead}; copy it again"
        )
    if report["mismatched_keys"]:
        shapes = [
            f"{name} is {tuple(shape)}, expected {tuple(expected)}"
            for name, shape, expected in sorted(report["mismatched_keys"], key=lambda entry: entry[0])
        ]
        raise ValueError(
            f"{where} has weights of other shapes than its {settings} says: {_listed(shapes, '; ')}; take "
            "both from the same model"
        )
    if unexpected:
        raise ValueError(
            f"{where} has weights for which its {settings} has no place: "
            f"{_listed(unexpected)}; take both from the same model, or merge an adapter into its base"
        )


def _listed(texts: list[str], separator: str = ", ") -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return separator.join(texts[:SHOWN]) + more
