"""Which positions of a batch are text and which are padding, and how the positions of a sequence are pooled."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

POOLINGS = ("last", "first", "mean")


def real_positions(tokens: Int[Tensor, "batch pos"], pad: int, end_is_pad: bool) -> Bool[Tensor, "batch pos"]:
    """Return whether each position is text; padding is on the right.

    Args:
        tokens: the batch.
        pad: id of the padding token.
        end_is_pad: whether the padding token also ends a text, as in our own tokenizers. Then the first one of the run
            at a sequence's end is text, and so is the same token inside a sequence. Otherwise every position with
            another token is text.
    """
    if not end_is_pad:
        return tokens != pad
    filled = (tokens == pad).flip(1).cumprod(1).flip(1).bool()
    length = (~filled).sum(1, keepdim=True) + 1
    return torch.arange(tokens.shape[1], device=tokens.device) < length


def pool(
    stream: Float[Tensor, "batch pos d"], real: Bool[Tensor, "batch pos"] | None, pooling: str
) -> Float[Tensor, "batch d"]:
    """Return one sample per sequence: the mean over its real positions, or its `first` or `last` real position.

    Args:
        stream: the activations.
        real: which positions are real; None if all are. Values at the others are ignored, even if they are NaN.
        pooling: `mean`, `first` or `last`.

    Raises:
        ValueError: an unknown pooling.

    >>> pool(torch.arange(6.0).view(1, 3, 2), torch.tensor([[True, True, False]]), "mean")
    tensor([[1., 2.]])
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling={pooling}: expected one of {', '.join(POOLINGS)}")
    if real is None:
        return stream.mean(1) if pooling == "mean" else stream[:, 0 if pooling == "first" else -1]
    if pooling == "mean":
        total = torch.where(real.unsqueeze(-1), stream, 0).sum(1)
        return total / real.sum(1, keepdim=True).clamp(min=1)
    positions = torch.arange(real.shape[1], device=real.device)
    index = (real * positions).argmax(1) if pooling == "last" else real.int().argmax(1)
    return stream[torch.arange(len(stream), device=stream.device), index]
