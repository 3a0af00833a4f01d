"""Files of activations: which files they are, and the arrays in them, read in parts.

Nothing here needs torch until an array of a safetensors file is read, so that a command line can check files at once.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from safetensors import SafetensorError, safe_open

from dissimilarity.capture.site_names import LOGITS, describe

IDS = "sample_ids"
TEXT = "tokens_sha256"
"""Key of the metadata of a file with the digest of the tokens that the model read."""
KINDS = "an nn.Module, a .npy or .safetensors file, a folder of .npy files, or a mapping of sites to arrays"


def is_saved(name: str) -> bool:
    """Return whether a name is one of files of activations, rather than of a model.

    Examples:
        >>> is_saved("layers.npy"), is_saved("hf:model")
        (True, False)
    """
    return name.endswith((".npy", ".safetensors")) or (Path(name).is_dir() and any(Path(name).glob("*.npy")))


@dataclass(frozen=True)
class ArrayReader:
    """An array in memory or in a file, which is read in parts.

    Attributes:
        shape: its shape.
        dtype: the name of its dtype.
        floating: whether it holds floating-point numbers.
        read: returns copies of the parts [start, stop) of its first dimension.
        device: the device of a tensor; None for any other array.
    """

    shape: tuple[int, ...]
    dtype: str
    floating: bool
    read: Callable[[Sequence[tuple[int, int]]], list[Any]]
    device: Any = None


def check_arrays(name: str, arrays: Mapping[str, ArrayReader]) -> None:
    """Check that arrays are activations.

    Raises:
        ValueError: there are none, control characters in a name, or arrays of a wrong rank or of integers.
    """
    if not arrays:
        raise ValueError(f"{name} holds no activations: expected {KINDS}")
    for site, array in arrays.items():
        if not site.isprintable():
            raise ValueError(f"{name}: expected names of sites, found {site!r} with control characters")
        if not array.floating:
            raise ValueError(
                f"{name}: expected floating-point activations at {site}, found {array.dtype}; "
                "save them as float32, or as bfloat16 in a .safetensors file"
            )
        if 0 in array.shape:
            raise ValueError(f"{name}: the activations at {site} are empty: {array.shape}; save them again")
        if len(array.shape) < 2:
            raise ValueError(
                f"{name}: expected activations (n, d) or (sequences, positions, d) at {site}, found {array.shape}; "
                "reshape them, or choose other sites"
            )


Shapes = Sequence[tuple[str, str, tuple[int, ...]]]
"""Name of a source, site and shape of each array of a comparison."""


def extent_of(shapes: Shapes) -> tuple[str, int, int]:
    """Return the array that tells the number of samples, its sequences, and its positions; 1 if rows are sequences.

    Examples:
        >>> extent_of([("a.npy", "a", (32, 8)), ("b.npy", "b", (8, 4, 6))])
        ('b.npy: (8, 4, 6)', 8, 4)
    """
    name, _, shape = next((entry for entry in shapes if len(entry[2]) > 2), shapes[0])
    sequences, *inner = shape
    return f"{name}: {shape}", sequences, inner[0] if len(inner) > 1 else 1


def check_extents(shapes: Shapes, expected: str, sequences: int, length: int) -> None:
    """Check that arrays have the samples of all sequences.

    Args:
        shapes: the arrays.
        expected: what tells how many there are, for the message.
        sequences: number of sequences.
        length: positions of a sequence.

    Raises:
        ValueError: one has others.
    """
    for name, site, shape in shapes:
        if shape[0] != sequences and not (len(shape) == 2 and shape[0] == sequences * length):
            raise ValueError(
                f"expected the same samples on both sides, found {expected} and, at {site} of {name}, {shape}; "
                "save both on one probe set, in one order"
            )


def check_logits(name: str, sites: Iterable[str]) -> None:
    """Check that there are logits among the sites of saved activations.

    Raises:
        ValueError: there are none.
    """
    if LOGITS not in sites:
        raise ValueError(
            f"{name}: expected model outputs at the site {LOGITS!r}, which an output measure compares, found "
            f"{describe(list(sites))}; save the logits too, or leave that measure out"
        )


def matching_sites(name: str, sites: Sequence[str], patterns: str | Sequence[str]) -> list[str]:
    """Return the sites of saved activations that match globs.

    Args:
        name: name of the activations in messages.
        sites: their sites.
        patterns: globs or names, with alternatives between bars.

    Raises:
        ValueError: a pattern matches no site; the message lists the sites.
    """
    matching = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        by_alternative = [
            [site for site in sites if site == glob or fnmatchcase(site, glob)] for glob in pattern.split("|")
        ]
        matches = next((matches for matches in by_alternative if matches), [])
        if not matches:
            raise ValueError(f"no site of {name} matches {pattern!r}; it has {describe(sites)}")
        matching.update(matches)
    return [site for site in sites if site in matching]


def is_floating(dtype: np.dtype) -> bool:
    """Return whether a dtype is one of floating-point numbers."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def arrays_in(path: Path) -> dict[str, ArrayReader]:
    """Return readers of the arrays of a file or folder by their names, after reading the shapes alone.

    Raises:
        ValueError: no such file, another kind of file, or one that cannot be read.
    """
    try:
        if path.suffix == ".npy":
            return {path.stem: _npy(path)}
        if path.suffix == ".safetensors":
            return _safetensors(path)
        if path.is_dir():
            return {file.stem: _npy(file) for file in sorted(path.glob("*.npy"), key=lambda file: _natural(file.stem))}
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"cannot read {path}: {str(error).rstrip('.')}; pass {KINDS}") from error
    raise ValueError(f"{path}: {'unknown kind of file' if path.exists() else 'no such file'}; pass {KINDS}")


def _npy(path: Path) -> ArrayReader:
    """Return a reader of a .npy file. It maps the file again for each read, which releases the pages read before."""

    def read(parts: Sequence[tuple[int, int]]) -> list[Any]:
        array = mapped(path)
        return [np.array(array[start:stop]) for start, stop in parts]

    array = mapped(path)
    return ArrayReader(array.shape, str(array.dtype), is_floating(array.dtype), read)


def mapped(path: Path) -> np.ndarray:
    """Memory-map the array of a .npy file.

    Raises:
        ValueError: it is none, or holds objects.
    """
    if not path.is_file():
        raise ValueError("expected a file, found a folder, a pipe or a device" if path.exists() else "no such file")
    with path.open("rb") as file:
        start = file.read(len(MAGIC_PREFIX))
    if start != MAGIC_PREFIX:  # np.load looks at the content, not at the name
        kind = "the archive of np.savez" if start.startswith(b"PK") else "another kind of file"
        raise ValueError(f"expected the one array of np.save, found {kind}")
    try:
        return np.load(path, mmap_mode="r")
    except (EOFError, SyntaxError, TypeError) as error:
        raise ValueError(f"it is damaged ({error}); copy it again") from error


def _safetensors(path: Path) -> dict[str, ArrayReader]:
    """Return readers of the tensors of a .safetensors file, which is mapped again for each read as in `_npy`."""
    with safe_open(path, "np") as file:
        slices = {key: file.get_slice(key) for key in sorted(file.keys(), key=_natural)}
        shapes = {key: (tuple(part.get_shape()), str(part.get_dtype())) for key, part in slices.items()}

    def reader(key: str) -> Callable[[Sequence[tuple[int, int]]], list[Any]]:
        def read(parts: Sequence[tuple[int, int]]) -> list[Any]:
            with safe_open(path, "pt") as file:
                tensor = file.get_slice(key)
                return [tensor[start:stop].clone() for start, stop in parts]

        return read

    return {
        key: ArrayReader(shape, dtype, dtype.startswith(("F", "BF")), reader(key))
        for key, (shape, dtype) in shapes.items()
    }


def _natural(name: str) -> list[Any]:
    """Return a key that sorts names by the numbers in them: blocks.2 before blocks.10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
