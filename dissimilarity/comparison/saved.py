"""Saved activations: reading them in parts, and checking that two sides belong together.

Saved activations are a mapping site -> array, or files: `NAME.npy` (one site), a folder of them (one site each), or
`NAME.safetensors` (one site per key). Arrays are (n, d), each row a sample and a separate unit, or
(sequences, positions, d), or (sequences, d, ...) where `channels` says so. Beside the sites there may be `sample_ids`
that identify the samples.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from dissimilarity.capture.hooks import device_of
from dissimilarity.capture.sites import LOGITS, resolve
from dissimilarity.comparison.array_files import (
    IDS,
    KINDS,
    TEXT,
    ArrayReader,
    arrays_in,
    check_arrays,
    check_extents,
    check_logits,
    extent_of,
    is_floating,
    matching_sites,
)
from dissimilarity.probe.batches import Inputs, tokens_per_sequence
from dissimilarity.probe.probe_set import Extent, ProbeSet
from dissimilarity.probe.site_layout import Channels, layout_of_place, place_at

Source = nn.Module | str | Path | Mapping[str, Any]

IDS_PER_READ = 2**20
DEFAULT_SITES = "blocks.*.resid_post"


@dataclass(frozen=True)
class SavedActivations:
    """Saved activations of one model.

    Attributes:
        name: their name in messages.
        sites: site -> array.
        ids: ids of the samples, if those were saved too.
        text: digest of the tokens that the model read, where the file has it; see `digest_of`.
    """

    name: str
    sites: dict[str, ArrayReader]
    ids: ArrayReader | None
    text: str | None = None

    def sequences(self, site: str, parts: Sequence[tuple[int, int]], count: int, channels: Channels = None) -> Tensor:
        """Read some sequences of a site as (sequences, positions, d), or (sequences, d) without positions.

        Args:
            site: the site.
            parts: start and stop of consecutive sequences.
            count: number of sequences of the probe set; rows (count * positions, d) are folded by it to
                (sequences, positions, d).
            channels: where features are, by default last.

        Raises:
            ValueError: images whose channel dimension is not known.
        """
        array = self.sites[site]
        fold = array.shape[0] // count
        read = [_as_tensor(part) for part in array.read([(start * fold, stop * fold) for start, stop in parts])]
        samples = torch.cat(read) if len(read) > 1 else read[0]
        samples = samples.unflatten(0, (-1, fold)) if fold > 1 else samples
        place = place_at(site, channels)
        if samples.ndim > 3 and place is None:
            raise ValueError(
                f"{self.name}: cannot tell which dimension of {array.shape} holds the features at {site}; pass "
                f"channels={{{site!r}: 'first'}} for (sequences, features, ...), or 'last'"
            )
        return samples if samples.ndim < 3 else layout_of_place(samples.ndim, place or "last").apply(samples, count)

    def check_logits(self, sites: Sequence[str]) -> None:
        """Check that the logits were saved if they are among the sites to read."""
        if LOGITS in sites:
            check_logits(self.name, self.sites)


def open_source(source: Source, side: str) -> nn.Module | SavedActivations:
    """Return a model unchanged, and anything else as saved activations, reading only their shapes.

    Args:
        source: see `KINDS`.
        side: the name of a mapping in messages.

    Raises:
        ValueError: none of these kinds, an unreadable file, control characters in a name, or arrays of a wrong rank or
            of integers.
    """
    if isinstance(source, nn.Module):
        return source
    if isinstance(source, Mapping):
        name, arrays = side, {str(site): array_reader(value) for site, value in source.items()}
    elif isinstance(source, (str, Path)):
        name, arrays = str(source), arrays_in(Path(source))
    else:
        raise ValueError(f"{side}: expected {KINDS}, found {type(source).__name__}")
    ids, text = arrays.pop(IDS, None), _text_in(source)
    check_arrays(name, arrays)
    return SavedActivations(name, arrays, ids, text)


def digest_of(inputs: Tensor, mask: Tensor | None = None) -> str:
    """Return a digest of tokens at real positions, by which files of activations are held to what models read.

    Examples:
        >>> digest_of(torch.tensor([[1, 2]])) == digest_of(torch.tensor([[1, 2]], dtype=torch.int32))
        True
    """
    numbers = inputs if inputs.is_floating_point() else inputs.long()
    digest = hashlib.sha256(repr(tuple(inputs.shape)).encode())
    if mask is not None and not bool(mask.all()):
        digest.update(mask.cpu().numpy().tobytes())
        numbers = numbers[mask.to(numbers.device)]
    digest.update(numbers.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _text_in(source: Source) -> str | None:
    """Return the digest of the tokens in the metadata of a file of activations; None without one."""
    if not (isinstance(source, (str, Path)) and Path(source).suffix == ".safetensors"):
        return None
    with safe_open(source, "pt") as file:
        return (file.metadata() or {}).get(TEXT)


def sites_of(
    source: nn.Module | SavedActivations, patterns: str | Sequence[str] | None, inputs: Inputs | None = None
) -> list[str]:
    """Return the sites that match globs; by default the streams after a model's blocks, or all saved sites.

    Args:
        source: the model or saved activations.
        patterns: the globs.
        inputs: what the model will read, for one that takes one number of tokens only.

    Raises:
        ValueError: a pattern matches no site; the message lists the sites.
    """
    if isinstance(source, nn.Module):
        return resolve(source, DEFAULT_SITES if patterns is None else patterns, tokens_per_sequence(inputs))
    if patterns is None:
        return [site for site in source.sites if site != LOGITS] or [LOGITS]
    return matching_sites(source.name, list(source.sites), patterns)


def fitted_to_sources(probe: ProbeSet, *sources: nn.Module | SavedActivations) -> ProbeSet:
    """Return the probe set on which sources are compared, with the extent of saved activations if it has no tokens.

    Raises:
        ValueError: a model without tokens, different numbers of samples, different samples by their ids, saved
            activations of models with different tokenizers.
    """
    saved = [source for source in sources if isinstance(source, SavedActivations)]
    if probe.is_aligned:
        if saved:
            raise ValueError(
                f"{saved[0].name}: models with different tokenizers are aligned while they run, and these are saved "
                "activations; pass the model, or save both models at the same positions of the text and compare those"
            )
        return probe
    if probe.inputs is None and len(saved) < len(sources):
        raise ValueError("expected tokens to run the model on, found none; pass those of the saved activations")
    shapes = [(source.name, site, array.shape) for source in saved for site, array in source.sites.items()]
    if probe.inputs is None:
        expected, sequences, length = extent_of(shapes)
    elif isinstance(probe.inputs, Tensor):
        tokens = probe.inputs
        sequences, length = len(tokens), int(tokens[0].numel()) if len(tokens) and tokens.ndim > 1 else 1
        expected = f"the tokens: {tuple(tokens.shape)}"
    else:
        sequences, length = probe.extent
        expected = f"a probe set of {sequences} sequences of {length} tokens"
    check_extents(shapes, expected, sequences, length)
    _check_ids([source for source in saved if source.ids is not None], sequences, sequences * length)
    _check_text(saved, probe)
    return replace(probe, inputs=Extent(sequences, length)) if probe.inputs is None else probe


def device_of_sources(*sources: nn.Module | SavedActivations) -> torch.device:
    """Return the device on which sums are computed: that of the models, or else of the first saved tensor."""
    models = [source for source in sources if isinstance(source, nn.Module)]
    if models:
        return device_of(models[0])
    saved = [source for source in sources if isinstance(source, SavedActivations)]
    devices = [array.device for source in saved for array in source.sites.values() if array.device is not None]
    return devices[0] if devices else torch.device("cpu")


def _check_text(saved: Sequence[SavedActivations], probe: ProbeSet) -> None:
    """Check that saved activations are of the tokens that the other side read, where files tell."""
    texts = {source.name: source.text for source in saved if source.text is not None}
    if isinstance(probe.inputs, Tensor):
        texts["the tokens"] = digest_of(probe.inputs, probe.mask)
    first = next(iter(texts.values()), None)
    others = [name for name, text in texts.items() if text != first]
    if others:
        raise ValueError(
            f"expected the same text on both sides, found other tokens, or another mask of padding, in "
            f"{next(iter(texts))} and {others[0]}; save both on one probe set, and pass its tokens and mask"
        )


def _check_ids(sources: Sequence[SavedActivations], sequences: int, samples: int) -> None:
    """Check that there is one id per sample, and that the ids of two sides agree."""
    sizes = [(source.name, int(np.prod(source.ids.shape))) for source in sources if source.ids is not None]
    for name, size in sizes:
        if size not in (sequences, samples):
            raise ValueError(
                f"{name}: expected {samples} {IDS}, one per sample, found {size}; save them again, or leave them out"
            )
    if len(sources) < 2:
        return
    (name_a, count_a), (name_b, count_b) = sizes
    if count_a != count_b:
        raise ValueError(
            f"expected equal {IDS}, found {count_a} in {name_a} and {count_b} in {name_b}; save both again"
        )
    differing, first = 0, ""
    for ids_a, ids_b in zip(*(_ids(source, sequences) for source in sources), strict=True):
        unequal = np.nonzero(ids_a != ids_b)[0]
        if len(unequal) and not differing:
            first = f"{ids_a[unequal[0]]} and {ids_b[unequal[0]]}"
        differing += len(unequal)
    if differing:
        raise ValueError(
            f"expected the same samples in one order, found that {differing} of {count_a} {IDS} of {name_a} and "
            f"{name_b} differ, the first {first}; put both in one order"
        )


def _ids(source: SavedActivations, sequences: int) -> Iterator[np.ndarray]:
    """Read the ids of the samples, flat, some sequences at a time."""
    array = source.ids
    assert array is not None
    fold, block = array.shape[0] // sequences, max(1, IDS_PER_READ * sequences // int(np.prod(array.shape)))
    for start in range(0, sequences, block):
        (part,) = array.read([(start * fold, min(sequences, start + block) * fold)])
        yield np.asarray(part.cpu() if isinstance(part, Tensor) else part).reshape(-1)


def _as_tensor(part: Any) -> Tensor:
    if isinstance(part, Tensor):
        return part.detach()
    array = np.array(part)
    native = array.dtype.kind == "f" and array.dtype.itemsize <= 8
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=") if native else np.float32, copy=False))


def array_reader(value: Any) -> ArrayReader:
    """Return a reader of a tensor, an array, or anything with a shape, a dtype and slices (HDF5, memory maps)."""
    if not (hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__")):
        value = np.asarray(value)
    floating = value.is_floating_point() if isinstance(value, Tensor) else is_floating(np.dtype(value.dtype))

    def read(parts: Sequence[tuple[int, int]]) -> list[Any]:
        return [value[start:stop] for start, stop in parts]

    device = value.device if isinstance(value, Tensor) else None
    return ArrayReader(tuple(int(size) for size in value.shape), str(value.dtype), floating, read, device)
