"""What can be compared: a model that is run on tokens, or activations that were saved, read a part at a time.

Saved activations are a mapping site -> array, or files: `NAME.npy` (one site), a folder of them (a site each), or
`NAME.safetensors` (a site each key). Arrays are (n, d), each row a sample and a unit of its own, or
(sequences, positions, d). Beside the sites there may be `sample_ids` that say which sample is which.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dissimilarity.capture.sites import LOGITS, describe, resolve
from dissimilarity.comparison.plan import Layout
from dissimilarity.probe.alignment import Alignment
from dissimilarity.probe.batches import Inputs, activations, at_once, batches, runs
from dissimilarity.probe.sampling import sampled_positions

Source = nn.Module | str | Path | Mapping[str, Any]

IDS = "sample_ids"
IDS_AT_ONCE = 2**20
DEFAULT_SITES = "blocks.*.resid_post"
KINDS = "an nn.Module, a .npy or .safetensors file, a folder of .npy files, or a mapping of sites to arrays"


@dataclass(frozen=True)
class Array:
    """An array in memory or in a file, of which parts are read.

    Attributes:
        shape: its shape.
        dtype: what its numbers are called.
        floating: whether they are floating-point.
        read: copies of the parts [start, stop) of its first dimension.
    """

    shape: tuple[int, ...]
    dtype: str
    floating: bool
    read: Callable[[Sequence[tuple[int, int]]], list[Any]]


@dataclass(frozen=True)
class Saved:
    """Saved activations: what to call them, the sites, and what the samples are called if that was saved too."""

    name: str
    sites: dict[str, Array]
    ids: Array | None


def open_source(source: Source, side: str) -> nn.Module | Saved:
    """A model as it is, anything else as saved activations; nothing but shapes is read.

    Args:
        source: see `KINDS`.
        side: what to call a mapping in messages.

    Raises:
        ValueError: nothing of that kind, an unreadable file, arrays of a wrong rank or of whole numbers.
    """
    if isinstance(source, nn.Module):
        return source
    if isinstance(source, Mapping):
        name, arrays = side, {str(site): _in_memory(value) for site, value in source.items()}
    elif isinstance(source, (str, Path)):
        name, arrays = str(source), _in_files(Path(source))
    else:
        raise ValueError(f"{side}: expected {KINDS}, found {type(source).__name__}")
    ids = arrays.pop(IDS, None)
    if not arrays:
        raise ValueError(f"{name} holds no activations: expected {KINDS}")
    for site, array in arrays.items():
        if len(array.shape) not in (2, 3) or 0 in array.shape:
            raise ValueError(
                f"{name}: expected activations (n, d) or (sequences, positions, d) at {site}, found {array.shape}; "
                "reshape them, or choose other sites"
            )
        if not array.floating:
            raise ValueError(
                f"{name}: expected floating-point activations at {site}, found {array.dtype}; "
                "save them as float32, or as bfloat16 in a .safetensors file"
            )
    return Saved(name, arrays, ids)


def sites_of(source: nn.Module | Saved, patterns: str | Sequence[str] | None) -> list[str]:
    """The sites that match globs; by default the streams after the blocks of a model, and all that was saved.

    Raises:
        ValueError: lists the sites there are, if a pattern matches none.
    """
    if isinstance(source, nn.Module):
        return resolve(source, DEFAULT_SITES if patterns is None else patterns)
    if patterns is None:
        return [site for site in source.sites if site != LOGITS] or [LOGITS]
    chosen = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matching = [site for site in source.sites if fnmatchcase(site, pattern)]
        if not matching:
            raise ValueError(f"no site of {source.name} matches {pattern!r}; it has {describe(source.sites)}")
        chosen.update(matching)
    return [site for site in source.sites if site in chosen]


def agreed_extent(
    a: nn.Module | Saved, b: nn.Module | Saved, tokens: Tensor | Alignment | None
) -> Tensor | tuple[int, int]:
    """The probe set on which two sides are compared: the tokens, or how many sequences there are of what length.

    Raises:
        ValueError: a model without tokens, other numbers of samples, other samples by their ids, saved activations of
            models of other tokenizers.
    """
    saved = [source for source in (a, b) if isinstance(source, Saved)]
    if isinstance(tokens, Alignment):
        if saved:
            raise ValueError(
                f"{saved[0].name}: models of other tokenizers are aligned as they run, and these activations were "
                "saved before; give the model, or save rows of both at the same places of the text and compare those"
            )
        return tokens.extent
    if tokens is None and len(saved) < 2:
        raise ValueError("expected tokens to run the model on, found none; pass those of the saved activations")
    shapes = [(source.name, site, array.shape) for source in saved for site, array in source.sites.items()]
    if tokens is None:
        sequences, *inner = next((shape for _, _, shape in shapes if len(shape) == 3), shapes[0][2])
        wanted, length = f"{shapes[0][0]}: {shapes[0][2]}", inner[0] if len(inner) > 1 else 1
    else:
        sequences, length = len(tokens), int(tokens[0].numel()) if len(tokens) and tokens.ndim > 1 else 1
        wanted = f"the tokens: {tuple(tokens.shape)}"
    for name, site, shape in shapes:
        if shape[0] != sequences and not (len(shape) == 2 and shape[0] == sequences * length):
            raise ValueError(
                f"expected the same samples on both sides, found {wanted} and, at {site} of {name}, {shape}; "
                "save both on one probe set, in one order"
            )
    _check_ids([source for source in saved if source.ids is not None], sequences, sequences * length)
    return (sequences, length) if tokens is None else tokens


def device_of(*sources: nn.Module | Saved) -> torch.device:
    """Where the sums are taken: where the models are."""
    models = [source for source in sources if isinstance(source, nn.Module)]
    return next((tensor.device for model in models for tensor in model.parameters()), torch.device("cpu"))


def stream(
    source: nn.Module | Saved, tokens: Inputs | None, sites: Sequence[str], layout: Layout, device: torch.device
) -> Iterator[tuple[dict[str, Tensor], range]]:
    """The samples of one side, chunk by chunk: site -> (sequences, ..., d), and the groups that they make up."""
    captured, read = layout.captured(sites), layout.reader(sites)
    if isinstance(source, nn.Module):
        assert tokens is not None
        yield from activations(source, tokens, captured, layout.slices, read, layout.apart)
        return
    _check_logits(source, captured)
    for batch in batches(layout.slices, at_once(layout.length)):
        first, last = batch[0][0], batch[-1][1]
        acts = {site: _part(source, site, layout, [(first, last)]).to(device) for site in captured}
        yield from runs(acts, batch, captured, read, layout.apart)


def thinned(source: Saved, sites: Sequence[str], layout: Layout, kept: Int[Tensor, " kept"]) -> Saved:
    """The rows that sample measures see out of more sequences than they see rows, one of each sequence that is kept."""
    captured = layout.captured(sites)
    _check_logits(source, captured)
    found = {}
    for site in captured:
        part = _part(source, site, layout, [(index, index + 1) for index in kept.tolist()])
        rows = layout.read(part, site in sites, kept.tolist())
        if rows.ndim > 2:
            rows = rows[:, sampled_positions(layout.sequences, rows.shape[1], layout.samples)]
        found[site] = _in_memory(rows)
    return Saved(source.name, found, None)


def _part(source: Saved, site: str, layout: Layout, parts: Sequence[tuple[int, int]]) -> Tensor:
    """Some sequences of a site; rows (sequences * positions, d) are folded to (sequences, positions, d)."""
    array = source.sites[site]
    fold = array.shape[0] // layout.sequences
    read = array.read([(start * fold, stop * fold) for start, stop in parts])
    rows = torch.cat([_as_tensor(part) for part in read]) if len(read) > 1 else _as_tensor(read[0])
    return rows.unflatten(0, (-1, fold)) if fold > 1 else rows


def _check_logits(source: Saved, captured: Sequence[str]) -> None:
    if LOGITS in captured and LOGITS not in source.sites:
        raise ValueError(
            f"{source.name}: expected what the model put out at the site {LOGITS!r}, which a measure of outputs "
            f"compares, found {describe(source.sites)}; save the logits too, or leave that measure out"
        )


def _check_ids(sources: Sequence[Saved], sequences: int, samples: int) -> None:
    """Refuses ids of another number than the samples', and two sides whose ids differ."""
    sizes = [(source.name, int(np.prod(source.ids.shape))) for source in sources if source.ids is not None]
    for name, size in sizes:
        if size not in (sequences, samples):
            raise ValueError(
                f"{name}: expected {samples} {IDS}, one a sample, found {size}; save them anew, or leave them out"
            )
    if len(sources) < 2:
        return
    (name_a, count), (name_b, other) = sizes
    if count != other:
        raise ValueError(f"expected equal {IDS}, found {count} of {name_a} and {other} of {name_b}; save both anew")
    differing, first = 0, ""
    for theirs, others in zip(*(_ids(source, sequences) for source in sources), strict=True):
        unequal = np.nonzero(theirs != others)[0]
        if len(unequal) and not differing:
            first = f"{theirs[unequal[0]]} and {others[unequal[0]]}"
        differing += len(unequal)
    if differing:
        raise ValueError(
            f"expected the same samples in one order, found that {differing} of {count} {IDS} of {name_a} and {name_b} "
            f"differ, the first {first}; put both in one order"
        )


def _ids(source: Saved, sequences: int) -> Iterator[np.ndarray]:
    """The ids of the samples, flat, some sequences at a time."""
    array = source.ids
    assert array is not None
    fold, some = array.shape[0] // sequences, max(1, IDS_AT_ONCE * sequences // int(np.prod(array.shape)))
    for start in range(0, sequences, some):
        (part,) = array.read([(start * fold, min(sequences, start + some) * fold)])
        yield np.asarray(part).reshape(-1)


def _as_tensor(part: Any) -> Tensor:
    if isinstance(part, Tensor):
        return part.detach()
    rows = np.array(part)
    wanted = rows.dtype.newbyteorder("=") if rows.dtype.kind == "f" and rows.dtype.itemsize <= 8 else np.float32
    return torch.from_numpy(rows.astype(wanted, copy=False))


def _in_memory(value: Any) -> Array:
    """A tensor, an array, or whatever has a shape, a dtype and slices: a dataset of HDF5, a memory map."""
    if not (hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__")):
        value = np.asarray(value)
    floating = value.is_floating_point() if isinstance(value, Tensor) else _is_floating(np.dtype(value.dtype))

    def read(parts: Sequence[tuple[int, int]]) -> list[Any]:
        return [value[start:stop] for start, stop in parts]

    return Array(tuple(int(size) for size in value.shape), str(value.dtype), floating, read)


def _is_floating(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _in_files(path: Path) -> dict[str, Array]:
    try:
        if path.suffix == ".npy":
            return {path.stem: _npy(path)}
        if path.suffix == ".safetensors":
            return _safetensors(path)
        if path.is_dir():
            return {file.stem: _npy(file) for file in sorted(path.glob("*.npy"), key=lambda file: _natural(file.stem))}
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"cannot read {path}: {error}; give {KINDS}") from error
    raise ValueError(f"{path}: {'not a file of a kind that is known' if path.exists() else 'not there'}; give {KINDS}")


def _npy(path: Path) -> Array:
    """A .npy file, mapped anew for each read: pages of it that were read before count no longer as this process's."""

    def read(parts: Sequence[tuple[int, int]]) -> list[Any]:
        mapped = np.load(path, mmap_mode="r")
        return [np.array(mapped[start:stop]) for start, stop in parts]

    mapped = np.load(path, mmap_mode="r")
    return Array(mapped.shape, str(mapped.dtype), _is_floating(mapped.dtype), read)


def _safetensors(path: Path) -> dict[str, Array]:
    """The tensors of a .safetensors file, which is mapped anew for each read as in `_npy`."""
    with safe_open(path, "pt") as file:
        slices = {key: file.get_slice(key) for key in sorted(file.keys(), key=_natural)}
        found = {key: (tuple(part.get_shape()), str(part.get_dtype())) for key, part in slices.items()}

    def reader(key: str) -> Callable[[Sequence[tuple[int, int]]], list[Any]]:
        def read(parts: Sequence[tuple[int, int]]) -> list[Any]:
            with safe_open(path, "pt") as file:
                tensor = file.get_slice(key)
                return [tensor[start:stop].clone() for start, stop in parts]

        return read

    return {
        key: Array(shape, dtype, dtype.startswith(("F", "BF")), reader(key)) for key, (shape, dtype) in found.items()
    }


def _natural(name: str) -> list[Any]:
    """For sorting names by the numbers in them: blocks.2 before blocks.10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
