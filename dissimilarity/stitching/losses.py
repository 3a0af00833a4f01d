"""The loss of stitching: next-token cross-entropy per sequence."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dissimilarity.capture.hooks import capture, device_of
from dissimilarity.capture.sites import LOGITS


def sequence_losses(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    """Return the mean cross-entropy of each sequence in nats per token, in at least float32.

    Args:
        logits: logits of the next token at every position; the last position is not used.
        tokens: the sequences.

    Examples:
        >>> uniform = torch.zeros(2, 5, 8)
        >>> print([f"{loss:.4f}" for loss in sequence_losses(uniform, torch.ones(2, 5, dtype=torch.long))])
        ['2.0794', '2.0794']
    """
    rows = logits[:, :-1].flatten(0, 1)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    with torch.autocast(rows.device.type, enabled=False):
        losses = nn.functional.cross_entropy(rows, tokens[:, 1:].flatten().to(rows.device), reduction="none")
    return losses.unflatten(0, (len(tokens), -1)).mean(1)


def check_tokens(tokens: Tensor, minimum: int, name: str) -> None:
    """Raise ValueError unless tokens are integers (sequences, pos) with enough sequences and positions."""
    if tokens.ndim != 2 or tokens.is_floating_point() or len(tokens) < minimum or tokens.shape[1] < 2:
        raise ValueError(
            f"expected {name} of shape (sequences, pos), at least {minimum} sequences of at least 2 tokens, found "
            f"{tuple(tokens.shape)} of {tokens.dtype}; pass more tokens"
        )


def check_vocabularies(front: nn.Module, back: nn.Module, tokens: Int[Tensor, "batch pos"]) -> None:
    """Raise ValueError if a model has no logits, vocabularies differ, or the tokens lie outside of them.

    Two tokenizers of the same size cannot be told apart here. A caller that knows the tokenizers must compare them.
    """
    sizes = []
    for model in (front, back):
        with capture(model, LOGITS) as acts:
            result = model(tokens[:1, :2].to(device_of(model)))
        if hasattr(result, "last_hidden_state") and not hasattr(result, "logits"):
            raise ValueError(
                f"cannot stitch {type(model).__name__}: it returns hidden states and no logits, so it has no loss; "
                "load it with its head, such as by AutoModelForCausalLM"
            )
        sizes.append(acts[LOGITS].shape[-1])
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"cannot stitch models of different vocabularies: the front model returns {sizes[0]} logits per token, the "
            f"back model {sizes[1]}, so they do not read the same tokens; train both with one tokenizer"
        )
    if int(tokens.max()) >= sizes[0] or int(tokens.min()) < 0:
        raise ValueError(
            f"expected tokens from 0 to {sizes[0] - 1}, the models' vocabulary, found {int(tokens.min())} to "
            f"{int(tokens.max())}; tokenize the text with the models' tokenizer"
        )


def check_positions(front: nn.Module, sites: Sequence[str], tokens: Int[Tensor, "batch pos"]) -> None:
    """Raise ValueError for sites of the front model whose activations are not (sequences, positions, d)."""
    excerpt = tokens[:1, :2].repeat(3, 1).to(device_of(front))
    with capture(front, list(dict.fromkeys(sites))) as acts:
        front(excerpt)
    for site, activation in acts.items():
        if activation.ndim != 3 or activation.shape[:2] != excerpt.shape:
            raise ValueError(
                f"expected activations (sequences, positions, d) at {site} of the front model, found "
                f"{tuple(activation.shape)} of tokens {tuple(excerpt.shape)}; choose a site that has these dimensions"
            )
