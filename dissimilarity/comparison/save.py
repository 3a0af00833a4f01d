"""Activations written to a file while the model runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from dissimilarity.capture.sites import resolve
from dissimilarity.comparison.array_files import TEXT
from dissimilarity.comparison.saved import DEFAULT_SITES, digest_of
from dissimilarity.probe.batches import capture_chunks, extent, sequences_per_batch, tokens_per_sequence
from dissimilarity.probe.probe_set import ProbeOptions, Tokens, as_probe_set
from dissimilarity.probe.site_layout import Channels
from dissimilarity.tables.files import replacing

DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16"}


def save_activations(
    model: nn.Module,
    tokens: Tokens,
    path: str | Path,
    sites: str | Sequence[str] = DEFAULT_SITES,
    *,
    mask: Tensor | None = None,
    channels: Channels = None,
) -> Path:
    """Write the activations of a model at some sites to a .safetensors file, which `compare` reads.

    They are written while the model runs, in its own precision (integers as float32), so the file may be larger than
    memory. An older file is replaced in one step. A digest of the tokens and the mask goes with them: `compare` refuses
    two files, or a file and a model, of other text.

    Args:
        model: called as ``model(tokens)``.
        tokens: (sequences, positions), any inputs whose first dimension counts independent units, or the output of a
            tokenizer or a loader.
        path: the file, ending in .safetensors.
        sites: globs or names of sites; each becomes a key, (sequences, positions, d) or (sequences, d). The pixels of
            images are positions.
        mask: true at real positions, as in ``ProbeSet``; activations are zero elsewhere. Pass it to `compare` too.
        channels: where features are at sites whose modules do not determine it, as in ``ProbeSet``.

    Returns:
        the path.

    Raises:
        ValueError: a path with another suffix, or a site that the model lacks.

    >>> from tempfile import TemporaryDirectory
    >>> model = nn.Sequential(nn.Linear(3, 4))
    >>> with TemporaryDirectory() as folder:
    ...     save_activations(model, torch.randn(8, 3), f"{folder}/net.safetensors", sites="0").name
    'net.safetensors'
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a path that ends in .safetensors; compare() recognizes the file by it")
    options: ProbeOptions = {} if mask is None else {"mask": mask}
    probe = as_probe_set(tokens, **options)
    inputs = probe.inputs_a
    if inputs is None:
        raise ValueError("expected tokens to run the model on, found none; pass tokens")
    names = resolve(model, sites, tokens_per_sequence(inputs))
    text = digest_of(probe.inputs, probe.mask) if isinstance(probe.inputs, Tensor) else ""
    sequences, length = extent(inputs)
    batch = sequences_per_batch(length)
    slices = [(start, min(start + batch, sequences), 0) for start in range(0, sequences, batch)]
    places: dict[str, int] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("wb") as file:
        written = 0
        for acts, _ in capture_chunks(model, inputs, names, slices, channels=channels):
            places = places or _write_header(file, acts, sequences, text)
            for site, activation in acts.items():
                file.seek(places[site] + written * activation[0].nbytes)
                file.write(activation.cpu().contiguous().view(torch.uint8).numpy().data)
            written += len(next(iter(acts.values())))
    return path


def _write_header(file: BinaryIO, acts: dict[str, Tensor], sequences: int, text: str) -> dict[str, int]:
    """Write the header of the safetensors format, and return where in the file each tensor begins."""
    header: dict[str, Any] = {"__metadata__": {TEXT: text}} if text else {}
    begins, end = {}, 0
    for site, activation in acts.items():
        size = activation[0].nbytes * sequences
        header[site] = {
            "dtype": DTYPES[activation.dtype],
            "shape": [sequences, *activation.shape[1:]],
            "data_offsets": [end, end + size],
        }
        begins[site], end = end, end + size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    return {site: 8 + len(encoded) + begin for site, begin in begins.items()}
