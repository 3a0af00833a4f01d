"""Direct stitches of all sites of a pair against the passes and solves that they require, and against training.

SoLU into GeLU, depth 4, 160 sequences of 128 tokens to fit and 64 to measure. The floor consists of the forward
passes of both models, up to the last site for the fit and complete for the measurement, the back model from each site
on, and the solves of each site. For comparison, the affine stitch of the middle site is trained once from random
weights until its held-out loss is that of the direct one or STEPS are done.
"""

import contextlib
import io
import shutil
import statistics
import tempfile
import time
from functools import partial

import torch
from torch import Tensor, nn

import settings
import train
from benchmarks.nets import D_VOCAB, untrained
from benchmarks.timing import interleaved, ratio, seconds, show
from dissimilarity.capture.enter import enter
from dissimilarity.capture.hooks import capture
from dissimilarity.capture.sites import LOGITS
from dissimilarity.stitching import Recipe, Stitch, direct_penalties
from dissimilarity.stitching.closed_form import solve
from dissimilarity.stitching.direct import direct_sums, split
from dissimilarity.stitching.penalty import batches_of
from launch.cli.compose import compose
from models.references import load

WIDTHS = (128, 512)
DEPTH = 4
STEPS = 1000


class Reached(Exception):  # noqa: N818 - not an error
    """Raised when the trained stitch is as good as the direct one."""


def forwards(models: list[nn.Module], sites: list[str], fit: Tensor, held_out: Tensor) -> None:
    """Run both models on all tokens."""
    for model in models:
        for tokens, names in ((fit, sites), (held_out, [*sites, LOGITS])):
            for batch in batches_of(tokens):
                with capture(model, names):
                    model(batch)


@torch.no_grad()
def tails(back: nn.Module, sites: list[str], streams: list[dict[str, Tensor]], held_out: Tensor) -> None:
    """Run the back model from each site on."""
    for batch, acts in zip(batches_of(held_out), streams, strict=True):
        for site in sites:
            enter(back, site, acts[site], batch)


def streams_of(model: nn.Module, sites: list[str], tokens: Tensor) -> list[dict[str, Tensor]]:
    """Yield activations batch by batch."""
    streams = []
    for batch in batches_of(tokens):
        with capture(model, sites) as acts:
            model(batch)
        streams.append(dict(acts))
    return streams


def trained(front: nn.Module, back: nn.Module, site: str, fit: Tensor, loss: float) -> tuple[int, float]:
    """Train a stitch from random weights until its held-out loss is `loss`; return its steps and its last loss."""
    last = (0, float("nan"))

    def note_loss(step: int, held_out: float) -> None:
        nonlocal last
        last = step, held_out
        if held_out <= loss:
            raise Reached

    recipe = Recipe(patience=None, evaluate_every=20, max_steps=STEPS)
    with contextlib.suppress(Reached):
        Stitch(front, back, site, fit="task", start="random", recipe=recipe).fit(fit, note_loss)
    return last


def against_floor(width: int) -> list[dict[str, str]]:
    """Time direct stitches of all sites and the parts of their floor, in one interleaved run."""
    shape = [f"width={width}", f"depth={DEPTH}"]
    front, back = (untrained([f"model={family}", *shape], seed) for seed, family in enumerate(("solu", "gelu")))
    generator = torch.Generator().manual_seed(0)
    fit, held_out = (torch.randint(D_VOCAB, (count, 128), generator=generator) for count in (160, 64))
    sites = [f"blocks.{layer}.resid_post" for layer in range(DEPTH)]
    pairs = [(site, site) for site in sites]
    sums = direct_sums(front, back, split(fit)[0], pairs, False)
    choose = direct_sums(front, back, split(fit)[1], pairs, False, sums)
    streams = streams_of(back, sites, held_out)

    def solves() -> None:
        for pair in pairs:
            solve("affine", sums[pair], choose[pair], None, True, torch.float32)

    work = {
        "direct, all sites": partial(direct_penalties, front, back, fit, held_out, pairs),
        "forwards": partial(forwards, [front, back], sites, fit, held_out),
        "tails": partial(tails, back, sites, streams, held_out),
        "solves": solves,
    }
    figures = interleaved({name: partial(seconds, action) for name, action in work.items()}, rounds=5)
    parts = ("forwards", "tails", "solves")
    figures["floor"] = [sum(times) for times in zip(*(figures[part] for part in parts), strict=True)]
    return [
        {
            "": f"width {width}: {name}",
            "s": f"{statistics.median(values):.2f}",
            "ratio": f"{ratio(figures, name, 'floor')[1]:.2f} of the floor",
        }
        for name, values in figures.items()
    ]


def against_training() -> dict[str, str]:
    """Time one direct stitch between nets trained for 200 steps, and the same stitch by gradient."""
    nets, folder = [], tempfile.mkdtemp()
    common = [f"depth={DEPTH}", "trainer.max_steps=200", "logger=none", "~callbacks.tracker", f"runs_dir={folder}/runs"]
    for family in ("solu", "gelu"):
        cfg = compose([f"model={family}", *common, f"data.cache_dir={folder}/cache"])
        with contextlib.redirect_stdout(io.StringIO()):
            train.train(cfg)
        nets.append(load(f"runs/{cfg.name}", f"{folder}/runs").model)
    data = settings.instantiate(cfg.data)
    data.setup("fit")
    fit, site = data.probe(160, 128), f"blocks.{DEPTH // 2 - 1}.resid_post"
    shutil.rmtree(folder)
    front, back = nets
    goal = Stitch(front, back, site).fit(split(fit)[0]).penalty(split(fit)[1]).loss_stitched
    direct = statistics.median(seconds(lambda: Stitch(front, back, site).fit(fit)) for _ in range(5))
    start = time.perf_counter()
    steps, loss = trained(front, back, site, fit, goal)
    gradient = time.perf_counter() - start
    end = f"reached {loss:.3f} after {steps} steps" if loss <= goal else f"at {loss:.3f} after {steps} steps"
    return {
        "": f"width 128, one site, by gradient to the {goal:.3f} of direct: {end}",
        "s": f"{gradient:.2f}",
        "ratio": f"{gradient / direct:.0f} of direct ({direct:.2f} s)",
    }


def run() -> None:
    """Print the distance from the floor and the ratio to training."""
    show([*(row for width in WIDTHS for row in against_floor(width)), against_training()])
