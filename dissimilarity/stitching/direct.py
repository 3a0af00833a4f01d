"""Direct stitches: closed forms from sums over tokens, for all pairs of sites from one pass of each model.

Memory depends on the size of the sums, not on the number of tokens.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from dissimilarity.capture.enter import check_enterable
from dissimilarity.capture.hooks import capture, device_of
from dissimilarity.capture.networks import networks_of
from dissimilarity.capture.site_names import matched_pairs
from dissimilarity.capture.sites import locate, resolve
from dissimilarity.moments.pair import Moments
from dissimilarity.moments.products import as_samples, choose_offset, find_outlier_rows, products, remove_offset
from dissimilarity.stitching.closed_form import solve
from dissimilarity.stitching.losses import check_positions, check_tokens, check_vocabularies
from dissimilarity.stitching.maps import Fitted, Kind, check_kind
from dissimilarity.stitching.penalty import Pair, Penalty, batches_of, map_dtype, penalties

SELECT_EVERY = 5
"""Every n-th sequence is reserved to select the ridge, or the step at which training stops."""


def direct_penalties(
    front: nn.Module,
    back: nn.Module,
    tokens: Int[Tensor, "sequences pos"],
    held_out: Int[Tensor, "held pos"],
    sites: str | Sequence[str] | Sequence[Pair] = "blocks.*.resid_post",
    kind: Kind = "affine",
    rank: int | None = None,
    bytes_per_token: float | None = None,
) -> dict[Pair, Penalty]:
    """Fit a direct stitch at every pair of sites and return its penalty, from one pass of each model over both sets.

    Args:
        front: the front model, called as `model(tokens)`.
        back: the back model. Widths and depths may differ from the front model's, but not the tokenizer. It may be the
            front model itself: `kind="identity"` then measures the cost of skipping or repeating its layers.
        tokens: to fit on, at least 10 sequences; `identity` does not read them.
        held_out: other tokens, at least 2 sequences.
        sites: globs or names of sites on both sides, paired at equal relative depth; or pairs (front site, back site).
        kind: kind of map, as in `maps`.
        rank: rank of `low_rank`.
        bytes_per_token: mean over the held-out text, for bits per byte.

    Returns:
        (front site, back site) -> penalty.

    Raises:
        ValueError: sites that a model lacks or at which `back` cannot be entered, unequal vocabularies, widths that the
            kind cannot connect, too few tokens, or activations that are not finite.
    """
    pairs = site_pairs(front, back, sites, tokens.shape[1], tokens.shape[1])
    check_tokens(held_out, 2, "held-out tokens")
    check_vocabularies(front, back, held_out)
    check_positions(front, [site for site, _ in pairs], held_out)
    return penalties(front, back, fit_direct(front, back, tokens, pairs, kind, rank), held_out, bytes_per_token)


def site_pairs(
    front: nn.Module, back: nn.Module, sites: str | Sequence[str] | Sequence[Pair], length: int, back_length: int
) -> list[Pair]:
    """Return the pairs (front site, back site) that globs, names or given pairs select, checked for both models.

    Args:
        front: the front model.
        back: the back model.
        sites: globs, names or pairs.
        length: tokens per sequence that the front model reads, if it takes one number only.
        back_length: the same of the back model.
    """
    for model, tokens in ((front, length), (back, back_length)):
        networks_of(model, tokens)  # remembered by all that follows
    if not isinstance(sites, str) and all(isinstance(pair, tuple) for pair in sites):
        pairs = [(site, back_site) for site, back_site in sites]
    else:
        patterns = [sites] if isinstance(sites, str) else [str(site) for site in sites]
        pairs = matched_pairs(resolve(front, patterns), resolve(back, patterns))
    check_sites(front, back, pairs)
    return pairs


def check_sites(front: nn.Module, back: nn.Module, pairs: Sequence[Pair]) -> None:
    """Raise ValueError for sites that the front model lacks, or at which the back model cannot be entered."""
    locate(front, [site for site, _ in pairs])
    for _, back_site in pairs:
        check_enterable(back, back_site, "the back model")


def split(tokens: Int[Tensor, "sequences pos"]) -> tuple[Int[Tensor, "fit pos"], Int[Tensor, "choose pos"]]:
    """Return the sequences to fit on, and every fifth sequence for selection.

    Raises:
        ValueError: fewer than 10 sequences.
    """
    check_tokens(tokens, 2 * SELECT_EVERY, "tokens to fit on")
    selecting = torch.arange(len(tokens), device=tokens.device) % SELECT_EVERY == SELECT_EVERY - 1
    return tokens[~selecting], tokens[selecting]


def fit_direct(
    front: nn.Module,
    back: nn.Module,
    tokens: Int[Tensor, "sequences pos"],
    pairs: Sequence[Pair],
    kind: Kind,
    rank: int | None = None,
    together: bool = True,
) -> dict[Pair, Fitted]:
    """Return the direct stitch of every pair of sites.

    Args:
        front: the front model.
        back: the back model.
        tokens: to fit on; the sequences of `split(tokens)[1]` select the ridge.
        pairs: (front site, back site).
        kind: kind of map.
        rank: rank of `low_rank`.
        together: whether to fit on those sequences too once the ridge is selected.

    Returns:
        pair -> the map, on the back model's device.
    """
    widths = widths_of(front, back, pairs, tokens)
    parts: list[dict[Pair, Moments]] = [{}, {}]
    if kind != "identity":
        fit, choose = split(tokens)
        parts = [direct_sums(front, back, fit, pairs, kind == "affine_ln")]
        parts.append(direct_sums(front, back, choose, pairs, kind == "affine_ln", parts[0]))
    for pair in pairs:
        check_kind(kind, *widths[pair], rank)
    device, dtype = device_of(back), map_dtype(back)
    stitches = {}
    for pair in pairs:
        fitted = solve(kind, parts[0].get(pair, {}), parts[1].get(pair, {}), rank, together, dtype)
        fitted.map.to(device)
        stitches[pair] = fitted
    return stitches


def widths_of(
    front: nn.Module, back: nn.Module, pairs: Sequence[Pair], tokens: Int[Tensor, "sequences pos"]
) -> dict[Pair, tuple[int, int]]:
    """Return the widths of the activations of each pair.

    Raises:
        ValueError: a site whose activations are not (batch, pos, d), such as one with the positions first.
    """
    sizes, few = [], tokens[:1, :2]
    for model, sites in ((front, [site for site, _ in pairs]), (back, [site for _, site in pairs])):
        with capture(model, sites) as acts:
            model(few.to(device_of(model)))
        for site, act in acts.items():
            if act.ndim != 3 or act.shape[:2] != few.shape:
                raise ValueError(
                    f"cannot stitch at {site!r}: expected activations (batch, pos, d), found {tuple(act.shape)} for "
                    f"tokens {tuple(few.shape)}; choose another site"
                )
        sizes.append({site: act.shape[-1] for site, act in acts.items()})
    return {(site, back_site): (sizes[0][site], sizes[1][back_site]) for site, back_site in pairs}


def direct_sums(
    front: nn.Module,
    back: nn.Module,
    tokens: Int[Tensor, "sequences pos"],
    pairs: Sequence[Pair],
    spread: bool,
    like: dict[Pair, Moments] | None = None,
) -> dict[Pair, Moments]:
    """Return the sums of every pair from which direct stitches follow, float64.

    Args:
        front: the front model.
        back: the back model.
        tokens: the sequences.
        pairs: (front site, back site).
        spread: whether to sum each y's variance over its dimensions.
        like: sums whose offsets to use; by default the first batch's mean, if it would cost digits.

    Returns:
        pair -> `n, x, y, xx, xy, eps_x` as in `moments`, about `offset_x, offset_y`, and `spread`.

    Raises:
        ValueError: activations that are not finite, or too large for float32 products.
    """
    front_sites, back_sites = (list(dict.fromkeys(sites)) for sites in zip(*pairs, strict=True))
    captured = (_captured(front, back, front_sites, back_sites, batch) for batch in batches_of(tokens))
    return sums_over(captured, pairs, spread, like)


def sums_over(
    batches: Iterable[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]],
    pairs: Sequence[Pair],
    spread: bool,
    like: dict[Pair, Moments] | None = None,
) -> dict[Pair, Moments]:
    """Return the sums of `direct_sums`, over batches of activations of both models that were captured elsewhere."""
    front_sites, back_sites = (list(dict.fromkeys(sites)) for sites in zip(*pairs, strict=True))
    offset_x = {site: like[site, back]["offset_x"] for site, back in pairs} if like else {}
    offset_y = {back: like[site, back]["offset_y"] for site, back in pairs} if like else {}
    xs, ys = {site: {} for site in front_sites}, {site: {} for site in back_sites}
    cross = {pair: {} for pair in pairs}
    for acts_x, acts_y in batches:
        samples_x, outliers_x = _side(acts_x, offset_x, xs)
        samples_y, outliers_y = _side(acts_y, offset_y, ys)
        for site in front_sites:
            _add(xs[site], xx=products(samples_x[site], None, outliers_x[site])[0])
        for site in back_sites if spread else ():
            y = samples_y[site][0].to(offset_y[site]) + offset_y[site]
            _add(ys[site], spread=y.var(-1, correction=0).sum())
        for site, back_site in pairs:
            xy = products(samples_x[site], samples_y[back_site], outliers_x[site] | outliers_y[back_site])[0]
            _add(cross[site, back_site], xy=xy)
    sums = {}
    for site, back_site in pairs:
        y = {"y": ys[back_site]["x"], **{key: value for key, value in ys[back_site].items() if key == "spread"}}
        offsets = {"offset_x": offset_x[site], "offset_y": offset_y[back_site]}
        sums[site, back_site] = {**xs[site], **y, **cross[site, back_site], **offsets}
        _check_finite(sums[site, back_site], site, back_site)
    return sums


def _check_finite(sums: Moments, site: str, back_site: str) -> None:
    """Raise ValueError for sums that are not finite."""
    for name, model, key in ((site, "front", "xx"), (back_site, "back", "xy")):
        if not bool(torch.isfinite(sums[key]).all()):
            raise ValueError(
                f"the {model} model's activation at {name} is not finite, or too large for float32 sums; "
                "look for overflow or divergence there, or run the models in float64"
            )


def _captured(
    front: nn.Module, back: nn.Module, front_sites: list[str], back_sites: list[str], tokens: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the activations of both models, from a single pass if both are the same model."""
    device = device_of(front)
    shared = [site for site in back_sites if front is back and site not in front_sites]
    with capture(front, [*front_sites, *shared]) as acts:
        front(tokens.to(device))
    if front is back:
        return {site: acts[site] for site in front_sites}, {site: acts[site] for site in back_sites}
    with capture(back, back_sites) as back_acts:
        back(tokens.to(device_of(back)))
    return acts, {site: act.to(device) for site, act in back_acts.items()}


def _side(
    acts: Mapping[str, Tensor], offsets: dict[str, Tensor], sums: dict[str, Moments]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the samples (1, n, d) of each site without their offset, and which of them are outliers.

    Their number, sum and rounding are added to the sums.
    """
    samples, outliers = {}, {}
    for site, act in acts.items():
        flat = as_samples(act)
        # A residual stream has directions of almost no variance, which are lost in float32 sums. On a CPU float64
        # doubles the time of the product, a tenth of the models' passes; on most GPUs it costs many times more.
        flat, noise = (flat.double() if flat.device.type == "cpu" else flat), torch.finfo(act.dtype).eps ** 2
        if site not in offsets:
            offsets[site] = choose_offset(flat)
        flat = remove_offset(flat, offsets[site])
        samples[site], outliers[site] = flat[None], find_outlier_rows(flat.square().sum(-1)[None])
        n = offsets[site].new_tensor(float(len(flat)))
        _add(sums[site], n=n, x=flat.sum(0, dtype=n.dtype), eps_x=n * (torch.finfo(flat.dtype).eps + noise))
    return samples, outliers


def _add(sums: Moments, **terms: Tensor) -> None:
    for key, value in terms.items():
        sums[key] = sums[key] + value if key in sums else value
