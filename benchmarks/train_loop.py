"""Training through train.py against a bare loop over the same net, and against the model of TransformerLens.

Width 512, depth 2, the default data and batch. All three train in the precision that train.py chooses on this machine,
and none is compiled. `train.py` is the whole training function with its callbacks, loggers and tables on; its steps are
timed from batch to batch, without those of ticks (`tracker` measures their cost). The floor is the matrix products of a
step alone, without those of attention. TransformerLens comes with `pip install -e ".[bench]"`.
"""

import contextlib
import io
import statistics
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import settings
import train
from benchmarks.timing import interleaved, now, ratio, seconds, show
from dissimilarity.tracking.schedule import is_due
from launch.cli.compose import compose
from launch.machine import choose_precision
from launch.run.folder import without_missing
from models.build import build_net

STEPS = 20
RIVALS_STEPS = 8
EVERY = 1000
OVERRIDES = [
    "width=512",
    "depth=2",
    "compile=false",
    f"trainer.max_steps={STEPS}",
    f"schedule.every={EVERY}",
    "logger.wandb.mode=offline",
    "track.budget=1.0",
]


class Clock(pl.Callback):
    """A callback that records the seconds from the start of each step to the start of the next."""

    durations: ClassVar[list[float]] = []

    def __init__(self) -> None:
        self.last: float | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        """Record the time since the last step began, if neither of the two is a tick."""
        start, step = now(), trainer.global_step
        if self.last is not None and not is_due(step, EVERY) and not is_due(step - 1, EVERY):
            Clock.durations.append(start - self.last)
        self.last = start


def median_of_training(overrides: list[str]) -> float:
    """Return the median seconds of a step of `python train.py OVERRIDES` in a new run."""
    Clock.durations = []
    clock = "+callbacks.clock._target_=benchmarks.train_loop.Clock"
    with contextlib.redirect_stdout(io.StringIO()):
        train.train(compose([*overrides, "name=timed", "overwrite=true", clock]))
    return statistics.median(Clock.durations)


def median_step(step: Callable[[int], object]) -> float:
    """Return the median seconds of a step after one warm-up step."""
    durations = [seconds(partial(step, index)) for index in range(RIVALS_STEPS)]
    return statistics.median(durations[1:])


def bare_step(
    net: nn.Module, batches: Tensor, precision: str, optimizer: torch.optim.Optimizer
) -> Callable[[int], None]:
    """Make one update as a plain loop does: forward, loss, backward, clip, step."""

    def step(index: int) -> None:
        batch = batches[index % len(batches)]
        with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=precision.startswith("bf16")):
            logits = net(batch[:, :-1])
        F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def products_of_a_step(net: nn.Module, tokens: int, precision: str, device: str) -> Callable[[int], None]:
    """Make the matrix products of one update: the output of each linear layer and the gradients of its two factors."""
    dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float32
    layers = [module for module in net.modules() if isinstance(module, nn.Linear)]
    factors = [
        (
            torch.randn(tokens, layer.in_features, device=device, dtype=dtype),
            torch.randn(tokens, layer.out_features, device=device, dtype=dtype),
            layer.weight.detach().to(dtype),
        )
        for layer in layers
    ]

    def step(index: int) -> None:
        for x, gradient, weight in factors:
            F.linear(x, weight)
            gradient @ weight
            gradient.mT @ x

    return step


def transformer_lens_net(cfg: Any, d_vocab: int, device: str) -> nn.Module | None:
    """Return a TransformerLens model of the same shape with random weights, or None if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
            device=device,
        )
    )


def run(device: str = "cpu") -> None:
    """Print tokens per second, how much faster or slower train.py is, and the floor of its matrix products."""
    overrides = [*OVERRIDES, f"trainer.accelerator={device}"]
    cfg = compose(overrides)
    with tempfile.TemporaryDirectory() as folder:
        place = [f"runs_dir={folder}/runs", f"data.cache_dir={folder}/cache"]
        data = settings.instantiate(compose([*overrides, *place]).data)
        data.prepare_data()
        data.setup("fit")
        blocks = data.probe(STEPS * cfg.data.batch_size, cfg.data.n_ctx, "train")
        batches = torch.cat([blocks, blocks[:, :1]], 1).unflatten(0, (STEPS, -1)).to(device)
        net = build_net(without_missing(cfg.model), data.d_vocab, cfg.init_seed).to(device)
        precision = choose_precision("auto", net, batches[0], torch.device(device)).chosen
        tokens = cfg.data.batch_size * cfg.data.n_ctx
        candidates = {"train.py": partial(median_of_training, [*overrides, *place, f"trainer.precision={precision}"])}
        rivals = {"bare loop": net, "TransformerLens, bare loop": transformer_lens_net(cfg, data.d_vocab, device)}
        for name, rival in rivals.items():
            if rival is not None:
                optimizer = torch.optim.AdamW(rival.parameters(), lr=1e-4, fused=True)
                candidates[name] = partial(median_step, bare_step(rival, batches, precision, optimizer))
        candidates["matrix products alone"] = partial(median_step, products_of_a_step(net, tokens, precision, device))
        figures = interleaved(candidates)
    rows = []
    for name in candidates:
        low, middle, high = ratio(figures, name, "train.py")
        per_step = statistics.median(figures[name])
        rows.append(
            {
                f"width {cfg.width}, depth {cfg.depth}, {precision}, not compiled": name,
                "s/step": f"{per_step:.3f}",
                "tokens/s": f"{tokens / per_step:,.0f}",
                "speedup of train.py": f"{middle:.3f} ({low:.3f} - {high:.3f})",
            }
        )
    show(rows)
    if rivals["TransformerLens, bare loop"] is None:
        print('TransformerLens is not installed: pip install -e ".[bench]"')
