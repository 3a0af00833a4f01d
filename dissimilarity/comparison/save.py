"""Writing a model's activations to a file, for comparisons without the model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from dissimilarity.capture.sites import resolve
from dissimilarity.comparison.saved import DEFAULT_SITES
from dissimilarity.probe.batches import activations, at_once, extent
from dissimilarity.tables.files import replacing

DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16"}


def save_activations(
    model: nn.Module, tokens: Tensor, path: str | Path, sites: str | Sequence[str] = DEFAULT_SITES
) -> Path:
    """Write the activations of a model at some sites to a .safetensors file, which `compare` reads.

    They are written as the model runs, in the precision in which it gives them: the file may be larger than memory. It
    is put in place in one step.

    Args:
        model: called as ``model(tokens)``.
        tokens: (sequences, positions), or any inputs whose first dimension counts independent units.
        path: the file, ending in .safetensors.
        sites: globs or names of sites; each becomes a key, (sequences, positions, d).

    Returns:
        the path.

    Raises:
        ValueError: another ending, or a site that the model lacks.
    """
    path, wanted = Path(path), resolve(model, sites)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a path that ends in .safetensors; compare() knows the file by it")
    sequences, length = extent(tokens)
    some = at_once(length)
    slices = [(start, min(start + some, sequences), 0) for start in range(0, sequences, some)]
    places: dict[str, int] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("wb") as file:
        done = 0
        for acts, _ in activations(model, tokens, wanted, slices):
            places = places or _begin(file, acts, sequences)
            for site, rows in acts.items():
                file.seek(places[site] + done * rows[0].nbytes)
                file.write(rows.cpu().contiguous().view(torch.uint8).numpy().data)
            done += len(next(iter(acts.values())))
    return path


def _begin(file: BinaryIO, acts: dict[str, Tensor], sequences: int) -> dict[str, int]:
    """Writes the header of the safetensors format, and returns where in the file each tensor begins."""
    header, begins, end = {}, {}, 0
    for site, rows in acts.items():
        size = rows[0].nbytes * sequences
        header[site] = {
            "dtype": DTYPES[rows.dtype],
            "shape": [sequences, *rows.shape[1:]],
            "data_offsets": [end, end + size],
        }
        begins[site], end = end, end + size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    return {site: 8 + len(text) + begin for site, begin in begins.items()}
