"""Direct stitches between models that read one text with different tokenizers.

A map is fitted by least squares on the activations of both models at the positions of the text where their tokens end
together. Its cost can be measured only there: at other positions the front model has no token. The back model therefore
keeps its own stream except at the common positions, where it gets the mapped stream of the front model. The loss is
that of the tokens which the back model predicts from these positions. This measures less than a stitched model would,
because a replaced position still attends to the back model's own stream before it. The mean stream at the same
positions shows the cost of a map that carries no information.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dissimilarity.capture.enter import enter, logits_of
from dissimilarity.capture.hooks import capture, device_of
from dissimilarity.capture.sites import LOGITS
from dissimilarity.moments.pair import Moments
from dissimilarity.probe.alignment import Alignment, Reading
from dissimilarity.probe.batches import capture_chunks, cut_sequences, sequences_per_batch
from dissimilarity.stitching.closed_form import centered_sums, solve
from dissimilarity.stitching.direct import SELECT_EVERY, site_pairs, sums_over
from dissimilarity.stitching.maps import Fitted, Kind, check_kind
from dissimilarity.stitching.penalty import Pair, map_dtype, paired

KINDS = ("scale_shift", "orthogonal", "low_rank", "affine")


@dataclass(frozen=True)
class AlignedPenalty:
    """The cost of a direct stitch at the positions where the two models' tokens end together.

    Losses are in nats per token predicted from there.

    Attributes:
        r2: 1 - (squared error of the map) / (squared error of the mean), on held-out text; below 0 it is worse.
        value: loss_stitched - loss_back; NaN if no loss can be computed, and then the note says why.
        stderr: standard error of the value, over sequences, paired.
        loss_back: loss of the back model itself.
        loss_stitched: loss with the mapped stream of the front model at the common positions.
        loss_mean: loss with the mean of the back model's stream there.
        share: replaced share of the back model's tokens.
        sequences: number of held-out sequences.
        tokens: number of replaced tokens.
        ridge: as in `Fitted`.
        note: why there is no loss, or a remark on the fit; empty if there is nothing to say.
    """

    r2: float
    value: float
    stderr: float
    loss_back: float
    loss_stitched: float
    loss_mean: float
    share: float
    sequences: int
    tokens: int
    ridge: float | None
    note: str


def aligned_penalties(
    front: nn.Module,
    back: nn.Module,
    fit: Alignment,
    held_out: Alignment,
    sites: str | Sequence[str] | Sequence[Pair] = "blocks.*.resid_post",
    kind: Kind = "affine",
    rank: int | None = None,
) -> dict[Pair, AlignedPenalty]:
    """Fit a direct stitch at every pair of sites of models with different tokenizers, and return its penalty.

    Args:
        front: the front model, which reads `fit.a` and `held_out.a`.
        back: the back model.
        fit: text to fit on, at least 10 sequences of which every fifth selects the ridge.
        held_out: other text, at least 2 sequences.
        sites: as for `direct_penalties`.
        kind: kind of map, as in `maps`: scale_shift, orthogonal, low_rank or affine.
        rank: rank of `low_rank`.

    Returns:
        (front site, back site) -> penalty. It has no loss if the front model reads ahead (an encoder sees the word to
        predict), or if the back model does not predict the next token.

    Raises:
        ValueError: as for `direct_penalties`, or positions pooled by the mean, which are not a stream at a position.
    """
    _check_text(fit, held_out, kind)
    pairs = site_pairs(front, back, sites, fit.a.tokens.shape[1], fit.b.tokens.shape[1])
    selecting = [index for index in range(len(fit.a)) if index % SELECT_EVERY == SELECT_EVERY - 1]
    fitting = [index for index in range(len(fit.a)) if index % SELECT_EVERY != SELECT_EVERY - 1]
    first = sums_over(_common_positions(front, back, fit.part(fitting), pairs), pairs, False)
    second = sums_over(_common_positions(front, back, fit.part(selecting), pairs), pairs, False, first)
    note = _without_loss(front, back, held_out, pairs)
    penalties = {}
    for pair in pairs:
        check_kind(kind, len(first[pair]["x"]), len(first[pair]["y"]), rank)
        fitted = solve(kind, first[pair], second[pair], rank, True, map_dtype(back))
        mean = _mean([first[pair], second[pair]])
        penalties[pair] = _penalty(front, back, held_out, pair, fitted, mean, note)
    return penalties


def _check_text(fit: Alignment, held_out: Alignment, kind: Kind) -> None:
    """Raise ValueError for a kind of stitch or a text that cannot be used across tokenizers."""
    if kind not in KINDS:
        raise ValueError(f"expected one of the kinds {', '.join(KINDS)} across tokenizers, found {kind!r}")
    if "mean" in (fit.a.take, held_out.a.take):
        raise ValueError("expected units taken by their last token, found means; call align(..., take='last')")
    if len(fit.a) < 2 * SELECT_EVERY or len(held_out.a) < 2:
        raise ValueError(
            f"expected at least {2 * SELECT_EVERY} sequences to fit on and 2 held out, found {len(fit.a)} and "
            f"{len(held_out.a)}; give more text"
        )


def _penalty(
    front: nn.Module,
    back: nn.Module,
    held_out: Alignment,
    pair: Pair,
    fitted: Fitted,
    mean: Float[Tensor, " q"],
    note: str,
) -> AlignedPenalty:
    """Return the penalty of one stitch; without a loss if a note says why there is none."""
    stitch = fitted.map.to(device_of(back))
    losses = [] if note else _losses(front, back, held_out, pair, stitch, mean)
    value, stderr = paired(losses[1], losses[0]) if losses else (math.nan, math.nan)
    loss_back, loss_stitched, loss_mean = (float(loss.mean()) for loss in losses) if losses else (math.nan,) * 3
    return AlignedPenalty(
        r2=_r2(front, back, held_out, pair, stitch, mean),
        value=value,
        stderr=stderr,
        loss_back=loss_back,
        loss_stitched=loss_stitched,
        loss_mean=loss_mean,
        share=held_out.share_b,
        sequences=len(held_out.a),
        tokens=len(held_out.a) * held_out.units,
        ridge=fitted.ridge,
        note=note or fitted.note,
    )


def _common_positions(
    front: nn.Module, back: nn.Module, text: Alignment, pairs: Sequence[Pair]
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Yield the activations of both models where their tokens end together, batch by batch."""
    front_sites, back_sites = (list(dict.fromkeys(sites)) for sites in zip(*pairs, strict=True))
    slices = cut_sequences(len(text.a), 1, sequences_per_batch(text.extent[1]))
    streams = capture_chunks(front, text.a, front_sites, slices), capture_chunks(back, text.b, back_sites, slices)
    for (acts_x, _), (acts_y, _) in zip(*streams, strict=True):
        device = next(iter(acts_x.values())).device
        yield acts_x, {site: rows.to(device) for site, rows in acts_y.items()}


def _mean(parts: Sequence[Moments]) -> Float[Tensor, " q"]:
    """Return the mean of the back model's activations over all text that was fitted on."""
    n = [float(part["n"]) for part in parts]
    return sum((centered_sums(part).y * count for part, count in zip(parts, n, strict=True)), torch.zeros(())) / sum(n)


def _r2(
    front: nn.Module, back: nn.Module, text: Alignment, pair: Pair, stitch: nn.Module, mean: Float[Tensor, " q"]
) -> float:
    """Return 1 - (squared error of the map) / (squared error of the mean)."""
    error = total = 0.0
    for acts_x, acts_y in _common_positions(front, back, text, [pair]):
        y = acts_y[pair[1]].to(device_of(back)).double()
        with torch.no_grad():
            error += float((y - stitch(acts_x[pair[0]].to(y.device)).double()).square().sum())
        total += float((y - mean.to(y)).square().sum())
    return 1 - error / total


@torch.no_grad()
def _losses(
    front: nn.Module, back: nn.Module, text: Alignment, pair: Pair, stitch: nn.Module, mean: Float[Tensor, " q"]
) -> list[Float[Tensor, " sequences"]]:
    """Return the losses per sequence of the back model itself, with the mapped stream, and with the mean stream."""
    unchanged, stitched, with_mean = [], [], []
    device = device_of(back)
    for start, stop, _ in cut_sequences(len(text.a), 1, sequences_per_batch(text.extent[1])):
        batch = slice(start, stop)
        (acts_x, _) = next(capture_chunks(front, text.a.part(range(start, stop)), [pair[0]], [(0, stop - start, 0)]))
        with capture(back, [pair[1], LOGITS]) as acts:
            text.b.run(back, batch, device)
        stream, last = acts[pair[1]], text.b.last[batch].to(device)
        tokens, mask = text.b.rows(batch)
        tokens = tokens.to(device)
        predicted = _predicted(text.b, batch, stream.shape[1]).to(device)
        unchanged.append(_loss_at(logits_of(acts[LOGITS]), tokens, last, predicted))
        mapped = stitch(acts_x[pair[0]].to(device))
        for losses, replacement in ((stitched, mapped), (with_mean, mean.to(device).expand_as(mapped))):
            replaced = stream.scatter(1, last[..., None].expand_as(replacement), replacement.to(stream))
            losses.append(
                _loss_at(logits_of(enter(back, pair[1], replaced, tokens, mask=mask)), tokens, last, predicted)
            )
    return [torch.cat(parts).double().cpu() for parts in (unchanged, stitched, with_mean)]


def _predicted(reading: Reading, batch: slice, length: int) -> Bool[Tensor, "batch units"]:
    """Return which of the positions are followed by a token of the text."""
    following = reading.last[batch] + 1
    return (following < length) & reading.counts[batch].take_along_dim(following.clamp(max=length - 1), 1)


def _loss_at(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    last: Int[Tensor, "batch units"],
    predicted: Bool[Tensor, "batch units"],
) -> Float[Tensor, " batch"]:
    """Return the mean cross-entropy per sequence of the tokens that follow the positions."""
    selected = logits.take_along_dim(last[..., None], 1).float()
    targets = tokens.take_along_dim((last + 1).clamp(max=tokens.shape[1] - 1), 1)
    with torch.autocast(selected.device.type, enabled=False):
        losses = nn.functional.cross_entropy(selected.flatten(0, 1), targets.flatten(), reduction="none").view_as(
            targets
        )
    return (losses * predicted).sum(1) / predicted.sum(1)


def _without_loss(front: nn.Module, back: nn.Module, text: Alignment, pairs: Sequence[Pair]) -> str:
    """Return why no loss of the stitched model can be computed; empty if it can."""
    excerpt = text.part(range(min(2, len(text.a))))
    with capture(back, LOGITS) as acts:
        excerpt.b.run(back, slice(None), device_of(back))
    try:
        classes = logits_of(acts[LOGITS]).shape[-1]
    except ValueError:
        classes = 0
    if classes <= int(text.b.tokens.max()):
        return "no loss: the back model does not return a logit for each token that may come next"
    front_site, back_site = pairs[-1]
    for name, model, reading, site in (("front", front, excerpt.a, front_site), ("back", back, excerpt.b, back_site)):
        if _reads_ahead(model, reading, site):
            return f"no loss: the {name} model reads ahead, so its stream already contains the token to predict"
    return ""


def _reads_ahead(model: nn.Module, reading: Reading, site: str) -> bool:
    """Return whether the stream at the first token changes with a later one."""
    end = int(reading.last[:, -1].min())
    original, changed = (reading.tokens[:, : end + 1].clone() for _ in range(2))
    changed[:, end] = torch.where(original[:, end] == original[:, 0], original[:, end - 1], original[:, 0])
    streams = []
    for tokens in (original, changed):
        with capture(model, site) as acts:
            model(tokens.to(device_of(model)))
        streams.append(acts[site][:, 0])
    return not torch.allclose(streams[0], streams[1], rtol=1e-4, atol=1e-5)
