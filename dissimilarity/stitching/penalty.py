"""What a stitch costs: the loss of the stitched model minus that of the back model, on tokens held out of the fit."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dissimilarity.capture.enter import enter, logits_of
from dissimilarity.capture.hooks import capture
from dissimilarity.capture.sites import LOGITS
from dissimilarity.probe.batches import cut_sequences, sequences_per_batch
from dissimilarity.stitching.losses import check_tokens, sequence_losses
from dissimilarity.stitching.maps import Fitted

Pair = tuple[str, str]


@dataclass(frozen=True)
class Penalty:
    """The cost of one stitch, all losses in nats per token.

    Attributes:
        value: loss_stitched - loss_back: 0 = the back model loses nothing, and what is below 0 it gains.
        stderr: of value, over sequences, paired: the standard deviation of the sequences' own differences over the root
            of their number.
        bits_per_byte: value / (ln 2 * bytes_per_token); None where bytes_per_token was not given.
        loss_front, loss_back: of the two models as they are.
        loss_stitched: of the back model on what the map makes of the front model's activation.
        sequences, tokens: how many there were; of each sequence all tokens but the first are predicted.
        ridge, steps, converged, note: of the fit, as in `Fitted`.
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
    """The penalties of any number of stitches of two models: one pass of each model, and one back tail a stitch.

    Args:
        front, back: called as `model(tokens)`.
        stitches: (site in front, site behind) -> map.
        tokens: held out of every fit, at least 2 sequences.
        bytes_per_token: of the text that the tokens come from.

    Returns:
        (site in front, site behind) -> penalty, in the order given.
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
    found = {}
    for pair, fitted in stitches.items():
        losses = torch.cat(stitched[pair]).double().cpu()
        value, stderr = paired(losses, loss_back)
        found[pair] = Penalty(
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
    return found


def paired(losses: Float[Tensor, " n"], others: Float[Tensor, " n"]) -> tuple[float, float]:
    """Mean difference of two losses of the same sequences, and its standard error."""
    difference = losses - others
    return float(difference.mean()), float(difference.std() / len(difference) ** 0.5)


@torch.no_grad()
def stitched_losses(
    back: nn.Module,
    back_site: str,
    stitch: nn.Module,
    activation: Float[Tensor, "batch pos p"],
    tokens: Int[Tensor, "batch pos"],
) -> Float[Tensor, " batch"]:
    """Losses of the back model, entered at a site with what a map makes of an activation."""
    stream = stitch(activation.to(device_of(back)))
    return sequence_losses(logits_of(enter(back, back_site, stream, tokens)), tokens)


def run(model: nn.Module, tokens: Int[Tensor, "batch pos"], sites: list[str]) -> dict[str, Tensor]:
    """Activations at some sites and at `logits`, of one whole pass."""
    with capture(model, list(dict.fromkeys([*sites, LOGITS]))) as acts:
        model(tokens.to(device_of(model)))
    acts[LOGITS] = logits_of(acts[LOGITS])
    return acts


def batches_of(tokens: Int[Tensor, "sequences pos"]) -> Iterator[Int[Tensor, "batch pos"]]:
    """The sequences, some at a time and never one alone."""
    for start, stop, _ in cut_sequences(len(tokens), 1, sequences_per_batch(tokens.shape[1])):
        yield tokens[start:stop]


def device_of(model: nn.Module) -> torch.device:
    """Where a model is."""
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


def map_dtype(back: nn.Module) -> torch.dtype:
    """The precision of a map into a model: float32, or float64 where the model is."""
    doubles = any(weight.dtype == torch.float64 for weight in back.parameters())
    return torch.float64 if doubles else torch.float32
