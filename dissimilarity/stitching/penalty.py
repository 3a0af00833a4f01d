"""The penalty of a stitch: loss of the stitched model minus loss of the back model, on held-out tokens."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dissimilarity.capture.enter import enter, logits_of
from dissimilarity.capture.hooks import capture, device_of
from dissimilarity.capture.sites import LOGITS
from dissimilarity.probe.batches import cut_sequences, sequences_per_batch
from dissimilarity.stitching.losses import check_tokens, sequence_losses
from dissimilarity.stitching.maps import Fitted

Pair = tuple[str, str]


@dataclass(frozen=True)
class Penalty:
    """The cost of one stitch, with all losses in nats per token.

    Attributes:
        value: loss_stitched - loss_back; 0 = the back model loses nothing, below 0 it gains.
        stderr: standard error of the value over sequences, paired: the standard deviation of the differences per
            sequence over the root of their number.
        bits_per_byte: value / (ln 2 * bytes_per_token); None if bytes_per_token was not given.
        loss_front: loss of the front model itself.
        loss_back: loss of the back model itself.
        loss_stitched: loss of the back model on the mapped activation of the front model.
        sequences: number of sequences.
        tokens: number of tokens. All tokens of a sequence but the first are predicted.
        ridge: as in `Fitted`.
        steps: as in `Fitted`.
        converged: as in `Fitted`.
        note: as in `Fitted`.
    """

    value: float
    stderr: float
    bits_per_byte: float | None
    loss_front: float
    loss_back: float
    loss_stitched: float
    sequences: int
    tokens: int
    ridge: float | None
    steps: int
    converged: bool
    note: str


def penalties(
    front: nn.Module,
    back: nn.Module,
    stitches: Mapping[Pair, Fitted],
    tokens: Int[Tensor, "sequences pos"],
    bytes_per_token: float | None = None,
) -> dict[Pair, Penalty]:
    """Return the penalties of any number of stitches of two models.

    Each model runs once, and the part of the back model after its site runs once per stitch.

    Args:
        front: the front model, called as `model(tokens)`.
        back: the back model.
        stitches: (front site, back site) -> map.
        tokens: held out of every fit, at least 2 sequences.
        bytes_per_token: mean over the text of the tokens.

    Returns:
        (front site, back site) -> penalty, in the order of the stitches.
    """
    check_tokens(tokens, 2, "held-out tokens")
    front_losses, back_losses = [], []
    stitched: dict[Pair, list[Tensor]] = {pair: [] for pair in stitches}
    for batch in batches_of(tokens):
        acts = run(front, batch, [site for site, _ in stitches])
        front_losses.append(sequence_losses(acts.pop(LOGITS), batch))
        back_losses.append(front_losses[-1] if front is back else sequence_losses(run(back, batch, [])[LOGITS], batch))
        for (site, back_site), fitted in stitches.items():
            stitched[site, back_site].append(stitched_losses(back, back_site, fitted.map, acts[site], batch))
    loss_front, loss_back = (torch.cat(losses).double().cpu() for losses in (front_losses, back_losses))
    by_pair = {}
    for pair, fitted in stitches.items():
        losses = torch.cat(stitched[pair]).double().cpu()
        value, stderr = paired(losses, loss_back)
        by_pair[pair] = Penalty(
            value=value,
            stderr=stderr,
            bits_per_byte=None if bytes_per_token is None else value / (math.log(2) * bytes_per_token),
            loss_front=float(loss_front.mean()),
            loss_back=float(loss_back.mean()),
            loss_stitched=float(losses.mean()),
            sequences=len(tokens),
            tokens=tokens.numel(),
            ridge=fitted.ridge,
            steps=fitted.steps,
            converged=fitted.converged,
            note=fitted.note,
        )
    return by_pair


def paired(losses: Float[Tensor, " n"], baseline: Float[Tensor, " n"]) -> tuple[float, float]:
    """Return the mean difference of two losses of the same sequences, and its standard error.

    Examples:
        >>> mean, stderr = paired(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 2.0]))
        >>> print(f"{mean:.2f} {stderr:.2f}")
        1.50 0.50
    """
    difference = losses - baseline
    return float(difference.mean()), float(difference.std() / len(difference) ** 0.5)


@torch.no_grad()
def stitched_losses(
    back: nn.Module,
    back_site: str,
    stitch: nn.Module,
    activation: Float[Tensor, "batch pos p"],
    tokens: Int[Tensor, "batch pos"],
) -> Float[Tensor, " batch"]:
    """Return the losses per sequence of the back model, entered at a site with a mapped activation."""
    stream = stitch(activation.to(device_of(back)))
    return sequence_losses(logits_of(enter(back, back_site, stream, tokens)), tokens)


def run(model: nn.Module, tokens: Int[Tensor, "batch pos"], sites: list[str]) -> dict[str, Tensor]:
    """Return the activations at some sites and at `logits`, from one whole pass."""
    with capture(model, list(dict.fromkeys([*sites, LOGITS]))) as acts:
        model(tokens.to(device_of(model)))
    acts[LOGITS] = logits_of(acts[LOGITS])
    return acts


def batches_of(tokens: Int[Tensor, "sequences pos"]) -> Iterator[Int[Tensor, "batch pos"]]:
    """Yield the sequences, some at a time and never a single one."""
    for start, stop, _ in cut_sequences(len(tokens), 1, sequences_per_batch(tokens.shape[1])):
        yield tokens[start:stop]


def map_dtype(back: nn.Module) -> torch.dtype:
    """Return the precision of a map into a model: float64 if the model has float64 weights, else float32."""
    doubles = any(weight.dtype == torch.float64 for weight in back.parameters())
    return torch.float64 if doubles else torch.float32
