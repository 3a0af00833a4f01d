"""The loss that stitching is about: next-token cross-entropy, sequence by sequence."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dissimilarity.capture.hooks import capture
from dissimilarity.capture.sites import LOGITS


def sequence_losses(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    """Mean cross-entropy of each sequence, nats per token: logits[:, :-1] against tokens[:, 1:], float32 at least."""
    rows = logits[:, :-1].flatten(0, 1)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    with torch.autocast(rows.device.type, enabled=False):
        losses = F.cross_entropy(rows, tokens[:, 1:].flatten().to(rows.device), reduction="none")
    return losses.unflatten(0, (len(tokens), -1)).mean(1)


def check_tokens(tokens: Tensor, least: int, what: str) -> None:
    """Raise ValueError unless tokens are (sequences, pos), whole numbers, enough of both."""
    if tokens.ndim != 2 or tokens.is_floating_point() or len(tokens) < least or tokens.shape[1] < 2:
        raise ValueError(
            f"expected {what} of shape (sequences, pos), at least {least} sequences of at least 2 tokens, found "
            f"{tuple(tokens.shape)} of {tokens.dtype}; pass more tokens"
        )


def check_vocabularies(front: nn.Module, back: nn.Module, tokens: Int[Tensor, "batch pos"]) -> None:
    """Raise ValueError for models that do not put out one vocabulary, or tokens from outside of it.

    Two tokenizers of one size cannot be told apart here; whoever knows the tokenizers has to.
    """
    sizes = []
    for model in (front, back):
        device = next((weight.device for weight in model.parameters()), tokens.device)
        with capture(model, LOGITS) as acts:
            model(tokens[:1, :2].to(device))
        sizes.append(acts[LOGITS].shape[-1])
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"cannot stitch models of different vocabularies: the front model puts out {sizes[0]} values a token, the "
            f"back model {sizes[1]}, so they do not read the same tokens; train both with one tokenizer"
        )
    if int(tokens.max()) >= sizes[0] or int(tokens.min()) < 0:
        raise ValueError(
            f"expected tokens from 0 to {sizes[0] - 1}, the models' vocabulary, found {int(tokens.min())} to "
            f"{int(tokens.max())}; tokenize the text with the models' tokenizer"
        )
