"""The probe set: the fixed token sequences on which models are compared."""

import hashlib

import numpy as np
import torch
from jaxtyping import Int64, Integer
from torch import Tensor


def draw_probe(
    tokens: Integer[np.ndarray, " tokens"], sequences: int, length: int, split: str
) -> Int64[Tensor, "sequences length"]:
    """Return `sequences` evenly spaced sequences of `length` tokens from a split.

    The split is divided into consecutive pieces of `length` tokens, and piece i * pieces // sequences is taken for each
    i. No two overlap, and they depend on the packed data alone: the probe set is the same for every seed.

    Args:
        tokens: All tokens of the split.
        sequences: Number of sequences, at least 1.
        length: Tokens per sequence, at least 1.
        split: Name of the split, for the message.

    Raises:
        ValueError: If there are too few pieces.

    Examples:
        >>> draw_probe(np.arange(12), sequences=2, length=3, split="val")
        tensor([[0, 1, 2],
                [6, 7, 8]])
    """
    if sequences < 1 or length < 1:
        raise ValueError(f"expected probe.sequences and probe.length >= 1, found {sequences} and {length}")
    pieces = len(tokens) // length
    if pieces < sequences:
        advice = f"probe.sequences={pieces}" if pieces else f"probe.length={max(1, len(tokens) // sequences)}"
        raise ValueError(
            f"expected {sequences} probe sequences of {length} tokens in split {split!r}, found {pieces} "
            f"({len(tokens)} tokens): type {advice}, shorten probe.length, or give more data"
        )
    starts = np.arange(sequences) * pieces // sequences * length
    return torch.from_numpy(tokens[starts[:, None] + np.arange(length)].astype(np.int64))


def probe_hash(tokens: Int64[Tensor, "sequences length"]) -> str:
    """Return the sha256 of shape and ids; curves are comparable only if theirs are equal."""
    ids = tokens.cpu().numpy().astype("<i8")
    return hashlib.sha256(repr(ids.shape).encode() + ids.tobytes()).hexdigest()
