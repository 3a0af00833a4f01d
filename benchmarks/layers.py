"""All pairs of layers of two 12-layer language models, capture included, against their two forward passes alone.

Width 256, 16 batches of 32 x 128 tokens, debiased CKA: exact over all 65,536 tokens, and over 512 random tokens a batch
(16 positions of each sequence). Error bars and nulls are shown apart, since no peer has them.
"""

import statistics
from collections.abc import Callable

import torch

from benchmarks.timing import interleaved, ratio, seconds, show
from dissimilarity import CKA, compare
from dissimilarity.measure import Measure
from launch.compose import compose
from models.build import build_net
from train import resolved_node

LAYERS, WIDTH, BATCHES, SEQUENCES, LENGTH, D_VOCAB = 12, 256, 16, 32, 128, 4096


def run() -> None:
    """Prints seconds and the ratio to the forward passes."""
    cfg = compose([f"width={WIDTH}", f"depth={LAYERS}", "model=gelu"])
    nets = [build_net(resolved_node(cfg.model), D_VOCAB, seed).eval() for seed in (0, 1)]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(D_VOCAB, (BATCHES * SEQUENCES, LENGTH), generator=generator)
    measures: list[Measure] = [CKA()]

    @torch.no_grad()
    def forward() -> None:
        for batch in tokens.split(SEQUENCES):
            for net in nets:
                net(batch)

    def compared(**options: object) -> Callable[[], float]:
        return lambda: seconds(lambda: compare(*nets, tokens, measures=measures, **options))  # pyright: ignore

    few = LENGTH * 512 // (SEQUENCES * LENGTH)
    figures = interleaved(
        {
            "forward passes": lambda: seconds(forward),
            "512 tokens a batch": compared(positions=few, groups=1, null=False),
            "512 tokens a batch, error bars and nulls": compared(positions=few),
            "all 65,536 tokens": compared(groups=1, null=False),
            "all 65,536 tokens, error bars": compared(null=False),
            "all 65,536 tokens, error bars and nulls": compared(),
        }
    )
    rows = []
    for name, values in figures.items():
        low, middle, high = ratio(figures, name, "forward passes")
        times = f"{middle:.2f} ({low:.2f} - {high:.2f})"
        middle_time = f"{statistics.median(values):.2f}"
        rows.append({"12 x 12 layers": name, "s": middle_time, "times the forward passes": times})
    show(rows)
