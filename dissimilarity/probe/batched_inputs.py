"""Inputs in the forms that users have: a tensor, the output of a tokenizer, or a loader of batches of either."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dissimilarity.capture.random_state import restored_random_state

NAMES = ("input_ids", "pixel_values", "input_values", "input_features")
"""Keys of inputs in batches of transformers. Other keys, except the mask, are ignored."""

MASK = "attention_mask"

ZERO = ("token_type_ids", "global_attention_mask")
"""Keys that models take, and for which they take zeros if they are left out."""


def as_inputs(probe: Any) -> tuple[Tensor, Tensor | None]:
    """Return inputs as one tensor (sequences, ...), and which positions are real; None if there is no mask.

    Args:
        probe: a tensor; a mapping with one of ``NAMES``, and ``attention_mask`` if there is padding; or batches of
            these, or tuples that begin with one. Batches may be padded to different lengths if they have masks.

    Raises:
        ValueError: batches whose input or padding cannot be identified, or batches of different shapes.

    >>> as_inputs([{"input_ids": torch.tensor([[5, 6]])}, {"input_ids": torch.tensor([[7, 8]])}])[0].tolist()
    [[5, 6], [7, 8]]
    """
    if isinstance(probe, (Tensor, Mapping)):
        return _batch(probe)
    if not isinstance(probe, Iterable):
        raise ValueError(f"expected a probe of a tensor, a mapping with {NAMES[0]}, or batches, found {probe!r}")
    with restored_random_state():  # a DataLoader draws a seed per pass, also without shuffling
        batches = [_batch(batch) for batch in probe]
    if not batches:
        raise ValueError("expected batches of inputs as a probe, found none")
    inputs, masks = [list(parts) for parts in zip(*batches, strict=True)]
    shapes = {tuple(part.shape[1:]) for part in inputs}
    is_text = all(part.ndim == 2 and not part.is_floating_point() for part in inputs)
    if len(shapes) > 1 and not (is_text and all(mask is not None for mask in masks)):
        sizes = " and ".join(map(str, sorted(shapes)[:2]))
        advice = f"with an {MASK} beside them, or padded to one length" if is_text else "of one shape"
        raise ValueError(f"expected batches of inputs of one shape, found {sizes} per sequence; pass them {advice}")
    if any(mask is not None for mask in masks):
        full = [torch.ones(part.shape[:2], dtype=torch.bool) for part in inputs]
        masks = [ones if mask is None else mask for mask, ones in zip(masks, full, strict=True)]
        length = max(mask.shape[1] for mask in masks)
        inputs = [_lengthened(part, length) if is_text else part for part in inputs]
        return torch.cat(inputs), torch.cat([_lengthened(mask, length) for mask in masks])
    return torch.cat(inputs), None


def _batch(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Return the inputs of one batch, and its mask if it has one."""
    if isinstance(batch, (list, tuple)) and batch and isinstance(batch[0], (Tensor, Mapping)):
        batch = batch[0]
    if isinstance(batch, Tensor):
        return batch, None
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"expected batches of tensors, or mappings with one of {', '.join(NAMES)}, found {type(batch).__name__}"
        )
    names = [name for name in NAMES if name in batch]
    names = names or [key for key, value in batch.items() if isinstance(value, Tensor) and key != MASK]
    if len(names) != 1:
        raise ValueError(
            f"expected one of {', '.join(NAMES)} in a batch, found {', '.join(map(str, batch)) or 'nothing'}; pass the "
            "tensor itself, or a mapping with that key"
        )
    if names[0].endswith("embeds"):
        raise ValueError(
            f"found {names[0]}, and models are called with tokens as their first argument; wrap each in a module whose "
            f"forward takes embeddings and passes them on as {names[0]}"
        )
    _warn_of_left_out(batch, names[0])
    mask = batch.get(MASK)
    return _tensor(batch[names[0]], names[0]), None if mask is None else _tensor(mask, MASK).bool()


def _warn_of_left_out(batch: Mapping[str, Any], name: str) -> None:
    """Warn of inputs beside the tokens that change what a model computes."""
    for key in ZERO:
        if key in batch and bool(_tensor(batch[key], key).any()):
            warnings.warn(
                f"found {key} that are not all 0 beside {name}: models are run without them; to compare models that "
                "read them, wrap each in a module whose forward makes them",
                stacklevel=4,
            )


def _tensor(value: Any, name: str) -> Tensor:
    """Return a tensor, also from the lists that a tokenizer returns without ``return_tensors``."""
    try:
        return torch.as_tensor(value)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"expected a tensor as {name}, found {type(value).__name__} of unequal rows; pad the batch "
            "(tokenizer(..., padding=True, return_tensors='pt'))"
        ) from error


def _lengthened(rows: Tensor, length: int) -> Tensor:
    """Return rows padded with zeros at the end to this length."""
    return torch.nn.functional.pad(rows, (0, length - rows.shape[1]))
