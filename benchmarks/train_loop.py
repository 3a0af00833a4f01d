"""Training through train.py against a bare loop over the same net, and against TransformerLens's own model.

Width 512, depth 2, the default data and batch, the precision that train.py chooses here. `train.py` is the whole
training function with its callbacks, loggers and tables on; its steps are timed from batch to batch, those of ticks
left out (`tracker` has their cost). TransformerLens comes with `pip install -e ".[bench]"`.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import settings
from benchmarks.timing import interleaved, ratio, show
from callbacks.schedule import is_due
from launch.compose import compose
from launch.folder import resolved

STEPS = 12
OVERRIDES = ["width=512", "depth=2", "logger=none", f"trainer.max_steps={STEPS}", "schedule.every=1000"]


class Clock(pl.Callback):
    """Seconds from the start of each step to the start of the next."""

    durations: list[float] = []

    def __init__(self) -> None:
        self.last: float | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        now, step = time.perf_counter(), trainer.global_step
        if self.last is not None and not is_due(step, 1000) and not is_due(step - 1, 1000):
            Clock.durations.append(now - self.last)
        self.last = now


def median_step(step: Callable[[int], object]) -> float:
    """Median seconds of a step, after one to warm up."""
    durations = []
    for index in range(STEPS):
        start = time.perf_counter()
        step(index)
        durations.append(time.perf_counter() - start)
    return statistics.median(durations[1:])


def bare_step(
    net: nn.Module, batches: Tensor, precision: str, optimizer: torch.optim.Optimizer
) -> Callable[[int], None]:
    """One update as a plain loop does it: forward, loss, backward, clip, step."""

    def step(index: int) -> None:
        batch = batches[index % len(batches)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision.startswith("bf16")):
            logits = net(batch[:, :-1])
        F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def transformer_lens_net(cfg: Any, d_vocab: int) -> nn.Module | None:
    """TransformerLens's model of the same shape with random weights, or None where it is not installed."""
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError:
        return None
    return HookedTransformer(
        HookedTransformerConfig(
            n_layers=cfg.depth,
            d_model=cfg.width,
            d_head=cfg.model.d_head,
            n_heads=cfg.width // cfg.model.d_head,
            d_mlp=4 * cfg.width,
            n_ctx=cfg.data.n_ctx,
            d_vocab=d_vocab,
            act_fn="solu_ln",
            normalization_type="LN",
            device="cpu",
        )
    )


def run() -> None:
    """Prints tokens per second and ratios."""
    import train

    with tempfile.TemporaryDirectory() as folder:
        place = [f"runs_dir={folder}/runs", f"data.cache_dir={folder}/cache"]
        cfg = compose([*OVERRIDES, *place])
        data = settings.instantiate(cfg.data)
        data.prepare_data()
        data.setup("fit")
        blocks = data.probe(STEPS * cfg.data.batch_size, cfg.data.n_ctx, "train")
        batches = torch.cat([blocks, blocks[:, :1]], 1).unflatten(0, (STEPS, -1))
        precisions: list[str] = []

        def ours() -> float:
            Clock.durations = []
            name = f"run-{len(precisions)}"
            job = compose([*OVERRIDES, *place, f"name={name}", "+callbacks.clock._target_=benchmarks.train_loop.Clock"])
            (Path(folder) / "runs" / name).mkdir(parents=True)
            train.train(job)
            precisions.append("32-true")
            return statistics.median(Clock.durations)

        from models.language_model import LanguageModel

        module = LanguageModel(
            net={key: value for key, value in resolved_model(cfg).items() if value != "???"},
            optim=resolved(cfg)["optim"],
            d_vocab=data.d_vocab,
            bytes_per_token=data.bytes_per_token,
            unigram_loss=data.unigram_loss,
        )
        precision = chosen_precision(module.net, batches[0])
        nets: dict[str, nn.Module | None] = {
            "bare loop": module.net,
            "TransformerLens, bare loop": transformer_lens_net(cfg, data.d_vocab),
        }
        candidates: dict[str, Callable[[], float]] = {"train.py": ours}
        for name, net in nets.items():
            if net is not None:
                optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
                step = bare_step(net, batches, precision, optimizer)
                candidates[name] = lambda step=step: median_step(step)
        figures = interleaved(candidates)
    tokens = cfg.data.batch_size * cfg.data.n_ctx
    rows = []
    for name in candidates:
        low, middle, high = ratio(figures, name, "train.py")
        seconds = statistics.median(figures[name])
        rows.append(
            {
                f"width 512, depth 2, {precision}": name,
                "s/step": f"{seconds:.3f}",
                "tokens/s": f"{tokens / seconds:,.0f}",
                "time / train.py's": f"{middle:.3f} ({low:.3f} - {high:.3f})",
            }
        )
    show(rows)


def resolved_model(cfg: Any) -> dict[str, Any]:
    """The model's node as plain values."""
    from train import resolved_node

    return resolved_node(cfg.model)


def chosen_precision(net: nn.Module, tokens: Tensor) -> str:
    """The precision that train.py takes on this machine."""
    from launch.machine import choose_precision

    return choose_precision("auto", net, tokens, torch.device("cpu"))[0]
