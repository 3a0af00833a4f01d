"""One tick of the tracker at its defaults against one training step, and the share of training that they make.

Two layers, in the precision that train.py chooses on this machine; probe of 128 x 64 tokens; CKA, Procrustes and
mutual kNN against two references that change (the worst case), with error bars. The floor of a tick is the
products that its values need (forward up to the last site, self and cross sums), over the rate of
float32 products measured in the same run. Heat maps add theirs and the null at their own cadence. On a GPU there is
also a model of twelve layers, because the small ones leave it idle.
"""

import statistics
from collections.abc import Callable

import torch
from omegaconf import DictConfig

import settings
from benchmarks.timing import gemm_rate, interleaved, seconds, show
from benchmarks.train_loop import bare_step
from dissimilarity.comparison.activations import ModelActivations, read_chunks
from dissimilarity.comparison.compare_pair import compare_pair
from dissimilarity.comparison.plan import make_plan
from dissimilarity.probe.probe_set import ProbeSet
from dissimilarity.tracking.schedule import ticks
from launch.cli.compose import compose
from launch.machine import choose_precision
from launch.run.folder import without_missing
from models.build import build_net

MODELS = {"width 128": ["width=128"], "width 512": ["width=512"]}
LARGE = {"width 1024, depth 12": ["width=1024", "depth=12"]}


def candidates(overrides: list[str], device: str) -> tuple[dict[str, Callable[[], float]], float, DictConfig]:
    """Return timers of a training step and of a tick's parts, the floor's operations, and the training's config."""
    cfg = compose(overrides)
    n_ctx, d_vocab = cfg.data.n_ctx, 4096
    net = build_net(without_missing(cfg.model), d_vocab, 0).to(device)
    generator = torch.Generator().manual_seed(0)
    batches = torch.randint(d_vocab, (2, cfg.data.batch_size, n_ctx + 1), generator=generator).to(device)
    probe = torch.randint(d_vocab, (cfg.probe.sequences, cfg.probe.length), generator=generator).to(device)
    sites = [f"blocks.{layer}.resid_post" for layer in range(cfg.depth)]
    pairs = list(zip(sites, sites, strict=True))
    measures = [settings.instantiate(node) for node in cfg.measures.values()]
    plan = make_plan(ProbeSet(probe), measures)

    def read(model: torch.nn.Module) -> ModelActivations:
        return ModelActivations(plan, sites, list(read_chunks(model, probe, sites, plan))).summed()

    references = [read(build_net(without_missing(cfg.model), d_vocab, seed).to(device)) for seed in (1, 2)]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    precision = choose_precision("auto", net, batches[0], torch.device(device)).chosen
    step = bare_step(net, batches, precision, optimizer)

    def capture() -> ModelActivations:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision.startswith("bf16")):
            return read(net)

    def tick(heatmap: bool) -> None:
        now = capture()
        site_pairs = [(a, b) for a in sites for b in sites] if heatmap else pairs
        for reference in references:
            compare_pair(now, reference, site_pairs, measures, nulls=int(heatmap), first_components=False)

    n = probe.numel()
    forward = 2 * n * sum(p.numel() for name, p in net.named_parameters() if "blocks" in name)
    floor = forward + 2 * n * cfg.width**2 * cfg.depth * (1 + len(references))
    timers = {
        "training step": lambda: seconds(lambda: step(0)),
        "tick": lambda: seconds(lambda: tick(False)),
        "its capture": lambda: seconds(capture),
        "tick with heat maps": lambda: seconds(lambda: tick(True)),
    }
    return timers, floor, cfg


def run(device: str = "cpu") -> None:
    """Print seconds, the distance from the floor, and shares."""
    rows = []
    for model, overrides in (MODELS | (LARGE if device == "cuda" else {})).items():
        timers, floor, cfg = candidates(overrides, device)
        steps = cfg.trainer.max_steps
        due = ticks(cfg.schedule.every, steps)
        maps = sum(step % cfg.schedule.heatmap_every == 0 or step == steps for step in due)
        figures = interleaved(timers, rounds=7)
        middle = {name: statistics.median(values) for name, values in figures.items()}
        spent = (len(due) - maps) * middle["tick"] + maps * middle["tick with heat maps"]
        share = spent / (steps * middle["training step"] + spent)
        for name, value in middle.items():
            bound = floor / gemm_rate(device)
            rows.append(
                {
                    "": f"{model}: {name}",
                    "ms": f"{1e3 * value:.0f}",
                    "steps": f"{value / middle['training step']:.2f}",
                    "times the floor": f"{value / bound:.1f}" if name.startswith("tick") else "",
                }
            )
        rows.append(
            {
                "": f"{model}: share of {steps} steps, all {len(due)} ticks",
                "ms": "",
                "steps": f"{share:.1%}",
                "times the floor": "",
            }
        )
    show(rows)
