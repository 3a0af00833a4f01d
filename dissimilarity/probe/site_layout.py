"""Where sequences, positions and features are in the activations of a site.

A site may have its sequences first, second (`batch_first=False`), or folded with the positions into one dimension, as
mixtures of experts do. Two small passes with two and three sequences show it: the dimension that grows with the number
of sequences is theirs.

Features are last after a linear map or a LayerNorm, and first (channels) after a convolution or a BatchNorm. Their
place therefore follows from the modules that ran before the site and the shapes that they returned. If these are
ambiguous, the user has to say.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from dissimilarity.capture.call import call
from dissimilarity.capture.forward import first_result
from dissimilarity.capture.hooks import capture
from dissimilarity.capture.sites import locate

Place = Literal["first", "last"]
"""Where features are among the dimensions of one sequence."""

Channels = Place | Mapping[str, Place] | None
"""Where features are: at all sites, by names or globs of sites, or None to decide by the modules."""

FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Upsample,
)
LAST = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.MultiheadAttention, nn.RNNBase)


@dataclass(frozen=True)
class FeatureHint:
    """The output of a module whose kind tells where features are.

    Attributes:
        place: where features are.
        features: number of features.
        result: the output.
    """

    place: Place
    features: int
    result: Tensor


@dataclass(frozen=True)
class Layout:
    """Where sequences and positions are in the activations of one site; all other dimensions are features.

    Attributes:
        sequences: dimension of the sequences.
        folded: whether the first dimension holds both sequences and positions, and ``sequences`` is their dimension
            once they are unfolded.
        positions: dimensions of the positions once sequences are unfolded and first.
    """

    sequences: int = 0
    folded: bool = False
    positions: tuple[int, ...] = (1,)

    def apply(self, activation: Tensor, sequences: int) -> Tensor:
        """Return activations as (sequences, positions, d), or (sequences, d) without positions.

        >>> Layout(sequences=1).apply(torch.zeros(12, 8, 3), 8).shape
        torch.Size([8, 12, 3])
        >>> Layout(folded=True).apply(torch.zeros(96, 3), 8).shape
        torch.Size([8, 12, 3])
        """
        if self.folded:
            activation = activation.unflatten(0, (sequences, -1) if self.sequences == 0 else (-1, sequences))
        activation = activation.movedim(self.sequences, 0)
        if activation.ndim < 3:
            return activation
        features = [dim for dim in range(1, activation.ndim) if dim not in self.positions]
        activation = activation.permute(0, *self.positions, *features)
        return activation.flatten(1, len(self.positions)).flatten(2)


def layout_of_place(ndim: int, place: Place) -> Layout:
    """Return the layout of activations (sequences, ...) whose features are first or last among the other dimensions."""
    return Layout(positions=tuple(range(1, ndim - 1) if place == "last" else range(2, ndim)))


def place_at(site: str, channels: Channels) -> Place | None:
    """Return where the user says that features are at a site; None where the user does not.

    Raises:
        ValueError: neither first nor last.
    """
    place = channels
    if isinstance(channels, Mapping):
        place = next((place for pattern, place in channels.items() if fnmatchcase(site, pattern)), None)
    if place in (None, "first", "last"):
        return place  # pyright: ignore[reportReturnType]
    raise ValueError(f"expected channels first, last, or a mapping of sites to these, found {place!r} at {site}")


def is_plain(model: nn.Module, acts: Mapping[str, Tensor], tokens: tuple[int, int]) -> bool:
    """Return whether all activations are (sequences, positions, d) beyond doubt.

    Args:
        model: the model.
        acts: its activations.
        tokens: number of sequences and of tokens per sequence.
    """
    shapes = all(act.ndim == 3 and tuple(act.shape[:2]) == tokens for act in acts.values())
    return shapes and tokens[0] != tokens[1] and not any(isinstance(module, FIRST) for module in model.modules())


def layouts_of(
    model: nn.Module,
    sites: Sequence[str],
    rows: Callable[[int], tuple[Tensor, Tensor | None]],
    channels: Channels,
) -> dict[str, Layout]:
    """Return the layout of each site, from passes with two and with three sequences.

    Args:
        model: the model.
        sites: names of sites.
        rows: returns the inputs of a number of sequences, and their mask.
        channels: where the user says that features are.

    Raises:
        ValueError: no dimension grows with the number of sequences, or it is unclear where features are.
    """
    inputs, mask = rows(2)
    two, hints = _observed(model, sites, inputs, mask)
    three, _ = _observed(model, sites, *rows(3))
    tokens = None if inputs.is_floating_point() or inputs.ndim != 2 else inputs.shape[1]
    layouts = {}
    for site, point in locate(model, sites).items():
        own_hint = _hint_of(model.get_submodule(point.module), two[site])
        layout = _sequences(site, two[site], three[site])
        layouts[site] = _with_positions(
            site, layout, two[site], own_hint, hints[site], tokens, place_at(site, channels)
        )
    return layouts


def _observed(
    model: nn.Module, sites: Sequence[str], inputs: Tensor, mask: Tensor | None
) -> tuple[dict[str, Tensor], dict[str, list[FeatureHint]]]:
    """Run a model, and return the activations of its sites and the hints from modules that ran before each of them."""
    hints: list[FeatureHint] = []
    before: dict[str, int] = {}
    handles = []

    def note(module: nn.Module, args: tuple, output: object) -> None:
        for site in acts:
            before.setdefault(site, len(hints))
        entry = _hint_of(module, first_result(output))
        if entry is not None:
            hints.append(entry)

    with capture(model, sites) as acts:
        try:
            for module in model.modules():
                if isinstance(module, (*FIRST, *LAST)):
                    handles.append(module.register_forward_hook(note))
            call(model, inputs, mask)
        finally:
            for handle in handles:
                handle.remove()
    return acts, {site: hints[: before.get(site, len(hints))] for site in acts}


def _hint_of(module: nn.Module, result: object) -> FeatureHint | None:
    """Return the hint of a module's output or input; None if its kind does not tell where features are."""
    if not isinstance(result, Tensor) or result.ndim < 2:
        return None
    if isinstance(module, FIRST):
        return FeatureHint("first", result.shape[1], result)
    if not isinstance(module, LAST):
        return None
    if isinstance(module, nn.LayerNorm):
        if len(module.normalized_shape) > 1:
            return None
        # Subclasses for images have their channels first (torchvision), or either by an option (ConvNeXt).
        size = next(iter(module.normalized_shape))
        fits = [place for place, dim in (("first", 1), ("last", -1)) if result.shape[dim] == size]
        if getattr(module, "data_format", "") == "channels_first" or fits == ["first"]:
            return FeatureHint("first", size, result)
        if type(module) is not nn.LayerNorm and len(fits) > 1 and result.ndim > 3:
            return None
    return FeatureHint("last", result.shape[-1], result)


def _sequences(site: str, two: Tensor, three: Tensor) -> Layout:
    """Return which dimension belongs to the sequences, from the activations of sequences 0, 1 and of 0, 1, 0."""
    sizes = list(zip(two.shape, three.shape, strict=False))
    growing = [dim for dim, (size_two, size_three) in enumerate(sizes) if size_two != size_three]
    if two.ndim == three.ndim and len(growing) == 1:
        dim = growing[0]
        if sizes[dim] == (2, 3):
            return Layout(sequences=dim)
        if dim == 0 and 3 * len(two) == 2 * len(three):
            first, second = (two.unflatten(0, sizes) for sizes in ((2, -1), (-1, 2)))
            as_first = (three.unflatten(0, (3, -1))[:2] - first).abs().sum()
            as_second = (three.unflatten(0, (-1, 3))[:, :2] - second).abs().sum()
            if bool(torch.minimum(as_first, as_second) > 0.1 * two.abs().sum()):  # much more than any rounding
                raise ValueError(
                    f"expected the samples of each sequence together at {site}, found {tuple(two.shape)} of 2 "
                    "sequences in another order beside a third (experts read samples sorted by expert); choose another "
                    "site"
                )
            return Layout(sequences=1 if bool(as_second < as_first) else 0, folded=True)
    raise ValueError(
        f"expected activations whose first dimension counts sequences, found {tuple(two.shape)} of 2 sequences and "
        f"{tuple(three.shape)} of 3 at {site}; choose a site that has samples of every sequence"
    )


def _with_positions(
    site: str,
    layout: Layout,
    result: Tensor,
    own_hint: FeatureHint | None,
    hints: Sequence[FeatureHint],
    tokens: int | None,
    place: Place | None,
) -> Layout:
    """Return a layout with the dimensions of its positions."""
    rest = [size for dim, size in enumerate(result.shape) if dim != (0 if layout.folded else layout.sequences)]
    shift = 2 if layout.folded else 1
    if len(rest) < 2:
        return layout
    is_channeled = any(entry.place == "first" for entry in hints)
    if place is None and tokens is not None and len(rest) > 2 and rest.count(tokens) == 1 and not is_channeled:
        # Heads are features of a token.
        return Layout(layout.sequences, layout.folded, (rest.index(tokens) + shift,))
    by_tokens: Place | None = None
    if tokens is not None and rest.count(tokens) == 1 and rest.index(tokens) in (0, len(rest) - 1):
        by_tokens = "last" if rest[0] == tokens else "first"
    if place is None:
        place = _place(result, rest, own_hint, hints) or by_tokens
        if by_tokens is not None and place != by_tokens:
            # A module that mixes positions has them where others of its kind have features.
            raise _ambiguous(site, result)
    if place is None and hints and len({entry.place for entry in hints}) == 1:
        place = hints[-1].place
    if place is None:
        raise _ambiguous(site, result)
    inner = range(len(rest) - 1) if place == "last" else range(1, len(rest))
    return Layout(layout.sequences, layout.folded, (*range(1, shift), *(dim + shift for dim in inner)))


def _ambiguous(site: str, result: Tensor) -> ValueError:
    """Return the error for activations whose features may be in either place."""
    return ValueError(
        f"cannot tell which dimension of {tuple(result.shape)} holds the features at {site}; pass "
        f"channels={{{site!r}: 'first'}} for (sequences, features, positions), or 'last'"
    )


def _place(
    result: Tensor, rest: Sequence[int], own_hint: FeatureHint | None, hints: Sequence[FeatureHint]
) -> Place | None:
    """Return where features are by the modules that ran before; None if they do not determine it."""
    if own_hint is not None:
        return own_hint.place
    if not hints:
        return None
    same_shape: list[Place] = [entry.place for entry in hints if entry.result.shape == result.shape]
    if rest[0] == rest[-1] and same_shape:
        last = hints[-1].result
        if last.shape == result.shape and not torch.equal(last, result) and torch.equal(last.movedim(1, -1), result):
            return "last"
        return same_shape[-1] if len(set(same_shape)) == 1 else None
    if same_shape:
        return same_shape[-1]
    ends: list[tuple[Place, int]] = [("first", rest[0]), ("last", rest[-1])]
    fits: list[Place] = [place for place, size in ends if size == hints[-1].features]
    if len(fits) == 1:
        return fits[0]
    last = hints[-1]
    if last.place == "first" and result.shape == last.result.movedim(1, -1).shape:
        return "last"
    return "first" if last.place == "last" and result.shape == last.result.movedim(-1, 1).shape else None
