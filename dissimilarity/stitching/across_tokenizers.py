"""Direct stitches between models that read one text in different tokens.

A map is fitted by least squares on the rows of both models at the places of the text where their tokens meet. What it
costs can be measured there alone: elsewhere the back model needs a stream that the front model has no token for. So
the back model keeps its own stream, but at the places where both meet has what the map makes of the front model's; its
loss is taken at the tokens that it predicts from there. That is less than a stitched model: a replaced position still
reads the own ones before it. The mean stream in the same places says what carrying nothing would cost.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dissimilarity.capture.enter import enter, logits_of
from dissimilarity.capture.hooks import capture
from dissimilarity.capture.sites import LOGITS, matched_pairs, resolve
from dissimilarity.moments.pair import Moments
from dissimilarity.probe.alignment import Alignment, Reading
from dissimilarity.probe.batches import capture_chunks, cut_sequences, sequences_per_batch
from dissimilarity.stitching.closed_form import centered_sums, solve
from dissimilarity.stitching.direct import CHOOSING, check_sites, sums_over
from dissimilarity.stitching.maps import Kind, check_kind
from dissimilarity.stitching.penalty import Pair, device_of, map_dtype, paired

KINDS = ("scale_shift", "orthogonal", "low_rank", "affine")


@dataclass(frozen=True)
class AlignedPenalty:
    """What a direct stitch costs where the two models' tokens meet, losses in nats per token predicted from there.

    Attributes:
        r2: 1 - squared error of the map over that of the mean, on text held out of the fit; below 0 it is worse.
        value: loss_stitched - loss_back; NaN where no loss is to be had, and note says why.
        stderr: of value, over sequences, paired.
        loss_back: of the back model as it is.
        loss_stitched: with what the map makes of the front model's stream in the places where both meet.
        loss_mean: with the mean of the back model's stream there.
        share: of the back model's tokens with text, how many were replaced.
        sequences, tokens: how many were measured on.
        ridge: as in `Fitted`.
        note: what is to be known of it, or nothing.
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
    """Fit a direct stitch at every pair of sites of models of different tokenizers, and say what it costs.

    Args:
        front, back: the models; `fit.a` and `held_out.a` are what the front one reads.
        fit: text to fit on, at least 10 sequences of which every fifth chooses the ridge.
        held_out: other text, at least 2 sequences.
        sites: as for `direct_penalties`.
        kind, rank: as in `maps`: scale_shift, orthogonal, low_rank or affine.

    Returns:
        (site in front, site behind) -> penalty, without a loss where the front model reads ahead (an encoder knows the
        word that is to be predicted) or the back one does not predict the next token.

    Raises:
        ValueError: as `direct_penalties`, and for units that are means over tokens, which are no stream of a position.
    """
    if kind not in KINDS:
        raise ValueError(f"expected a kind of stitch out of {', '.join(KINDS)} across tokenizers, found {kind!r}")
    if "mean" in (fit.a.take, held_out.a.take):
        raise ValueError("expected units taken by their last token, found means: align(..., take='last')")
    if len(fit.a) < 2 * CHOOSING or len(held_out.a) < 2:
        raise ValueError(
            f"expected at least {2 * CHOOSING} sequences to fit on and 2 held out, found {len(fit.a)} and "
            f"{len(held_out.a)}; give more text"
        )
    pairs = _pairs(front, back, sites)
    choosing = [index for index in range(len(fit.a)) if index % CHOOSING == CHOOSING - 1]
    fitting = [index for index in range(len(fit.a)) if index % CHOOSING != CHOOSING - 1]
    first = sums_over(_units(front, back, fit.part(fitting), pairs), pairs, False)
    second = sums_over(_units(front, back, fit.part(choosing), pairs), pairs, False, first)
    note = _without_loss(front, back, held_out, pairs)
    found = {}
    for pair in pairs:
        check_kind(kind, len(first[pair]["x"]), len(first[pair]["y"]), rank)
        fitted = solve(kind, first[pair], second[pair], rank, True, map_dtype(back))
        stitch = fitted.map.to(device_of(back))
        mean = _mean([first[pair], second[pair]])
        losses = [] if note else _losses(front, back, held_out, pair, stitch, mean)
        value, stderr = paired(losses[1], losses[0]) if losses else (math.nan, math.nan)
        loss_back, loss_stitched, loss_mean = (float(of.mean()) for of in losses) if losses else (math.nan,) * 3
        found[pair] = AlignedPenalty(
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
    return found


def _pairs(front: nn.Module, back: nn.Module, sites: str | Sequence[str] | Sequence[Pair]) -> list[Pair]:
    if not isinstance(sites, str) and all(isinstance(pair, tuple) for pair in sites):
        chosen: list[Pair] = [(site, back_site) for site, back_site in sites]
    else:
        patterns = [sites] if isinstance(sites, str) else [str(site) for site in sites]
        chosen = matched_pairs(resolve(front, patterns), resolve(back, patterns))
    check_sites(front, back, chosen)
    return chosen


def _units(
    front: nn.Module, back: nn.Module, text: Alignment, pairs: Sequence[Pair]
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """The rows of both models where their tokens meet, batch by batch."""
    front_sites, back_sites = (list(dict.fromkeys(sites)) for sites in zip(*pairs, strict=True))
    slices = cut_sequences(len(text.a), 1, sequences_per_batch(text.extent[1]))
    streams = capture_chunks(front, text.a, front_sites, slices), capture_chunks(back, text.b, back_sites, slices)
    for (acts_x, _), (acts_y, _) in zip(*streams, strict=True):
        device = next(iter(acts_x.values())).device
        yield acts_x, {site: rows.to(device) for site, rows in acts_y.items()}


def _mean(parts: Sequence[Moments]) -> Float[Tensor, " q"]:
    """The mean of the back model's rows over all text that was fitted on."""
    n = [float(part["n"]) for part in parts]
    return sum((centered_sums(part).y * count for part, count in zip(parts, n, strict=True)), torch.zeros(())) / sum(n)


def _r2(
    front: nn.Module, back: nn.Module, text: Alignment, pair: Pair, stitch: nn.Module, mean: Float[Tensor, " q"]
) -> float:
    """1 - squared error of the map over that of the mean."""
    error = total = 0.0
    for acts_x, acts_y in _units(front, back, text, [pair]):
        y = acts_y[pair[1]].to(device_of(back)).double()
        with torch.no_grad():
            error += float((y - stitch(acts_x[pair[0]].to(y.device)).double()).square().sum())
        total += float((y - mean.to(y)).square().sum())
    return 1 - error / total


@torch.no_grad()
def _losses(
    front: nn.Module, back: nn.Module, text: Alignment, pair: Pair, stitch: nn.Module, mean: Float[Tensor, " q"]
) -> list[Float[Tensor, " sequences"]]:
    """Of each sequence the loss of the back model as it is, with the mapped stream, and with the mean stream."""
    found: list[list[Tensor]] = [[], [], []]
    device = device_of(back)
    for start, stop, _ in cut_sequences(len(text.a), 1, sequences_per_batch(text.extent[1])):
        of = slice(start, stop)
        (acts_x, _) = next(capture_chunks(front, text.a.part(range(start, stop)), [pair[0]], [(0, stop - start, 0)]))
        with capture(back, [pair[1], LOGITS]) as acts:
            text.b.run(back, of, device)
        own, last = acts[pair[1]], text.b.last[of].to(device)
        tokens = text.b.tokens[of, : own.shape[1]].to(device)
        predicted = _predicted(text.b, of, own.shape[1]).to(device)
        found[0].append(_loss_at(logits_of(acts[LOGITS]), tokens, last, predicted))
        mapped = stitch(acts_x[pair[0]].to(device))
        for place, rows in ((1, mapped), (2, mean.to(device).expand_as(mapped))):
            stream = own.scatter(1, last[..., None].expand_as(rows), rows.to(own))
            found[place].append(_loss_at(logits_of(enter(back, pair[1], stream, tokens)), tokens, last, predicted))
    return [torch.cat(parts).double().cpu() for parts in found]


def _predicted(reading: Reading, of: slice, length: int) -> Bool[Tensor, "some units"]:
    """Which of the units are followed by a token of the text."""
    behind = reading.last[of] + 1
    there = behind < length
    return there & reading.counts[of].take_along_dim(behind.clamp(max=length - 1), 1)


def _loss_at(
    logits: Float[Tensor, "some pos d_vocab"],
    tokens: Int[Tensor, "some pos"],
    last: Int[Tensor, "some units"],
    predicted: Bool[Tensor, "some units"],
) -> Float[Tensor, " some"]:
    """Mean cross-entropy of the tokens behind the units of each sequence."""
    rows = logits.take_along_dim(last[..., None], 1).float()
    targets = tokens.take_along_dim((last + 1).clamp(max=tokens.shape[1] - 1), 1)
    with torch.autocast(rows.device.type, enabled=False):
        losses = F.cross_entropy(rows.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    return (losses * predicted).sum(1) / predicted.sum(1)


def _without_loss(front: nn.Module, back: nn.Module, text: Alignment, pairs: Sequence[Pair]) -> str:
    """Why no loss of the stitched model is to be had; empty if one is."""
    few = text.part(range(min(2, len(text.a))))
    with capture(back, LOGITS) as acts:
        few.b.run(back, slice(None), device_of(back))
    try:
        classes = logits_of(acts[LOGITS]).shape[-1]
    except ValueError:
        classes = 0
    if classes <= int(text.b.tokens.max()):
        return "no loss: the back model does not put out a value for each token that may come next"
    deepest = pairs[-1]
    for name, model, reading, site in (("front", front, few.a, deepest[0]), ("back", back, few.b, deepest[1])):
        if _reads_ahead(model, reading, site):
            return f"no loss: the {name} model reads ahead, so that its stream knows the token that is to be predicted"
    return ""


def _reads_ahead(model: nn.Module, reading: Reading, site: str) -> bool:
    """Whether the stream at the first token changes with a later one."""
    end = int(reading.last[:, -1].min())
    one, other = (reading.tokens[:, : end + 1].clone() for _ in range(2))
    other[:, end] = torch.where(one[:, end] == one[:, 0], one[:, end - 1], one[:, 0])
    seen = []
    for tokens in (one, other):
        with capture(model, site) as acts:
            model(tokens.to(device_of(model)))
        seen.append(acts[site][:, 0])
    return not torch.allclose(seen[0], seen[1], rtol=1e-4, atol=1e-5)
