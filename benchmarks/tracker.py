"""One tick of the tracker at its defaults against one training step, and the share of training that they make.

Two layers; probe of 32 x 64 tokens; CKA, Procrustes and mutual kNN against two references that change (the worst
case), with error bars. The floor of a tick is the products that it cannot do without (forward up to the last site,
self and cross sums), over the rate of products measured in the same run. Heat maps add theirs at their own cadence.
"""

import statistics
from collections.abc import Callable

import torch

from benchmarks.timing import gemm_rate, interleaved, seconds, show
from benchmarks.train_loop import bare_step
from callbacks.schedule import ticks
from dissimilarity import CKA, MutualKNN, Procrustes, snapshot
from dissimilarity.evaluate import evaluate
from dissimilarity.layout import lay_out
from launch.compose import compose
from models.build import build_net
from train import resolved_node

WIDTHS = (128, 512)


def candidates(width: int) -> tuple[dict[str, Callable[[], float]], float, int, int]:
    """Timers of a training step and of a tick's parts; the floor's operations; steps of a training and its ticks."""
    cfg = compose([f"width={width}"])
    n_ctx, d_vocab = cfg.data.n_ctx, 4096
    net = build_net(resolved_node(cfg.model), d_vocab, 0)
    generator = torch.Generator().manual_seed(0)
    batches = torch.randint(d_vocab, (2, cfg.data.batch_size, n_ctx + 1), generator=generator)
    probe = torch.randint(d_vocab, (cfg.probe.sequences, cfg.probe.length), generator=generator)
    sites = [f"blocks.{layer}.resid_post" for layer in range(cfg.depth)]
    pairs = list(zip(sites, sites, strict=True))
    measures = [CKA(), Procrustes(), MutualKNN()]
    layout = lay_out(probe, measures, 16)
    references = [
        snapshot.take(build_net(resolved_node(cfg.model), d_vocab, seed), probe, sites, layout) for seed in (1, 2)
    ]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    step = bare_step(net, batches, "32-true", optimizer)

    def capture() -> snapshot.Snapshot:
        return snapshot.take(net, probe, sites, layout)

    def tick(heatmap: bool) -> None:
        now = capture()
        wanted = [(a, b) for a in sites for b in sites] if heatmap else pairs
        for reference in references:
            cross, null = snapshot.cross(now, reference, wanted, layout, with_null=heatmap)
            evaluate(measures, now.side, reference.side, cross, null)

    n = probe.numel()
    forward = 2 * n * sum(p.numel() for name, p in net.named_parameters() if "blocks" in name)
    floor = forward + 2 * n * width**2 * cfg.depth * (1 + len(references))
    timers = {
        "training step": lambda: seconds(lambda: step(0)),
        "tick": lambda: seconds(lambda: tick(False)),
        "its capture": lambda: seconds(capture),
        "tick with heat maps and nulls": lambda: seconds(lambda: tick(True)),
    }
    due = ticks(cfg.schedule.every, cfg.trainer.max_steps)
    return timers, floor, cfg.trainer.max_steps, len(due)


def run() -> None:
    """Prints seconds, the distance from the floor, and shares."""
    rows = []
    for width in WIDTHS:
        timers, floor, steps, count = candidates(width)
        figures = interleaved(timers, rounds=7)
        middle = {name: statistics.median(values) for name, values in figures.items()}
        maps = 3
        spent = (count - maps) * middle["tick"] + maps * middle["tick with heat maps and nulls"]
        share = spent / (steps * middle["training step"] + spent)
        for name, value in middle.items():
            bound = floor / gemm_rate()
            rows.append(
                {
                    "": f"width {width}: {name}",
                    "ms": f"{1e3 * value:.0f}",
                    "steps": f"{value / middle['training step']:.2f}",
                    "times the floor": f"{value / bound:.1f}" if name.startswith("tick") else "",
                }
            )
        rows.append(
            {
                "": f"width {width}: share of {steps} steps, {count} ticks",
                "ms": "",
                "steps": f"{share:.1%}",
                "times the floor": "",
            }
        )
    show(rows)
