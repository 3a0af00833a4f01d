"""Which positions of a batch are text and which are padding, read off the tokens themselves."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

POOLINGS = ("last", "first", "mean")


def real_positions(tokens: Int[Tensor, "batch pos"], pad: int, end_is_pad: bool) -> Bool[Tensor, "batch pos"]:
    """Whether each position is text; padding stands on the right.

    Args:
        tokens: the batch.
        pad: id of the token that fills up.
        end_is_pad: whether a text ends with that very token, as our own tokenizers have one token for both: then the
            first of those at a sequence's end is text, and the same token inside of it is too. Otherwise every
            position with another token is text.
    """
    if not end_is_pad:
        return tokens != pad
    filled = (tokens == pad).flip(1).cumprod(1).flip(1).bool()
    length = (~filled).sum(1, keepdim=True) + 1
    return torch.arange(tokens.shape[1], device=tokens.device) < length


def pool(
    stream: Float[Tensor, "batch pos d"], real: Bool[Tensor, "batch pos"], pooling: str
) -> Float[Tensor, "batch d"]:
    """One row a sequence: the stream at its `last` or `first` real position, or the `mean` over all of them.

    Raises:
        ValueError: another pooling.
    """
    if pooling == "mean":
        weight = real.to(stream.dtype).unsqueeze(-1)
        return (stream * weight).sum(1) / weight.sum(1).clamp(min=1)
    if pooling not in POOLINGS:
        raise ValueError(f"task.pooling={pooling}: expected one of {', '.join(POOLINGS)}")
    positions = torch.arange(real.shape[1], device=real.device)
    at = (real * positions).argmax(1) if pooling == "last" else real.int().argmax(1)
    return stream[torch.arange(len(stream), device=stream.device), at]
