"""All pairs of layers of two 12-layer language models, capture included, against their two forward passes alone.

Width 256, 16 batches of 32 x 128 tokens, debiased CKA: exact over all 65,536 tokens, and over 512 random tokens per
batch (16 positions per sequence). Error bars and nulls, which no peer has, are shown separately and over 4 batches. The
floor of the exact form is the passes without logits and the products of all pairs, with 24 self terms.
"""

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.nets import D_VOCAB, untrained
from benchmarks.timing import gemm_rate, interleaved, ratio, seconds, show
from dissimilarity import CKA, capture, compare

LAYERS, WIDTH, BATCHES, SEQUENCES, LENGTH = 12, 256, 16, 32, 128
FEWER = 4
POSITIONS = 512 // SEQUENCES
"""Positions per sequence, for 512 tokens per batch."""


def run(device: str = "cpu") -> None:
    """Print seconds and the ratio to the forward passes."""
    nets = [untrained(["model=gelu", f"width={WIDTH}", f"depth={LAYERS}"], seed).to(device) for seed in (0, 1)]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(D_VOCAB, (BATCHES * SEQUENCES, LENGTH), generator=generator).to(device)
    plain: dict[str, Any] = {"n_units": 1, "null": False}
    table(
        nets,
        tokens,
        {
            "512 tokens per batch": {**plain, "positions": POSITIONS},
            "all 65,536 tokens": plain,
        },
    )
    table(
        nets,
        tokens[: FEWER * SEQUENCES],
        {
            "512 tokens per batch, error bars and nulls": {"positions": POSITIONS},
            "all tokens, error bars": {"null": False},
            "all tokens, error bars and nulls": {},
        },
    )


def table(nets: list[nn.Module], tokens: Tensor, settings: dict[str, dict[str, Any]]) -> None:
    """Print the time of comparisons with some options."""

    @torch.no_grad()
    def forward(sites: list[str] | None = None) -> None:
        for batch in tokens.split(SEQUENCES):
            for net in nets:
                with capture(net, sites) if sites else nullcontext():
                    net(batch)

    def compared(options: dict[str, Any]) -> float:
        return seconds(lambda: compare(nets[0], nets[1], tokens, measures=[CKA()], **options))

    streams = [f"blocks.{layer}.resid_post" for layer in range(LAYERS)]
    candidates: dict[str, Callable[[], float]] = {"forward passes": lambda: seconds(forward)}
    candidates["passes to the last block, all streams kept"] = lambda: seconds(lambda: forward(streams))
    candidates |= {name: partial(compared, options) for name, options in settings.items()}
    figures = interleaved(candidates)
    width = LAYERS * WIDTH
    operations = tokens.numel() * (2 * width**2 + 2 * LAYERS * WIDTH**2 * 2 * 5 / 8)
    rows = []
    for name, values in figures.items():
        low, middle, high = ratio(figures, name, "forward passes")
        times = f"{middle:.2f} ({low:.2f} - {high:.2f})"
        middle_time = f"{statistics.median(values):.2f}"
        rows.append({f"12 x 12 layers, {tokens.numel():,} tokens": name, "s": middle_time, "times the passes": times})
    floor = operations / gemm_rate(tokens.device.type)
    head, *_ = rows[0]
    base = statistics.median(figures["forward passes"])
    rows.append({head: "products of the exact form", "s": f"{floor:.2f}", "times the passes": f"{floor / base:.2f}"})
    show(rows)
