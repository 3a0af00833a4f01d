"""Task stitches: the map is trained on the back model's own next-token loss, with both models held fixed.

The front model's activations are captured once and reused in every step if they fit in `MEMORY`. If not, they are
captured again for each batch. A step runs only the map and the back model from its site on.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dissimilarity.capture.enter import enter, logits_of
from dissimilarity.capture.hooks import capture, device_of
from dissimilarity.probe.batches import cut_sequences, sequences_per_batch
from dissimilarity.stitching.direct import fit_direct, split, widths_of
from dissimilarity.stitching.losses import sequence_losses
from dissimilarity.stitching.maps import Fitted, Kind, cold_map
from dissimilarity.stitching.penalty import Pair, batches_of, map_dtype, stitched_losses

MEMORY = 2**31
"""Maximum bytes of front activations to cache."""

MapStart = Literal["direct", "identity", "random"]
Progress = Callable[[int, float], Any]


@dataclass(frozen=True)
class Recipe:
    """How a task stitch is trained. By default it trains until the held-out loss stops falling.

    Attributes:
        optimizer: `adam`, or `sgd` with Nesterov momentum 0.9.
        lr: the highest learning rate.
        batch: sequences per step.
        max_steps: maximum number of steps.
        warmup: steps of linear warm-up.
        decay: whether the learning rate then falls linearly to 0 at max_steps.
        clip: maximum norm of the gradient; None for no limit.
        evaluate_every: steps between two evaluations of the held-out loss.
        patience: training ends after this many evaluations without a fall of at least `min_improvement`; None to train
            for max_steps.
        min_improvement: smallest fall of the held-out loss that counts, in nats per token.
        seed: seed of the order of batches, and of random weights.
    """

    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    batch: int = 16
    max_steps: int = 2000
    warmup: int = 0
    decay: bool = False
    clip: float | None = 1.0
    evaluate_every: int = 25
    patience: int | None = 4
    min_improvement: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(f"expected optimizer adam or sgd, found {self.optimizer!r}")
        if min(self.batch, self.evaluate_every) < 1 or self.max_steps < 0:
            raise ValueError(
                f"expected batch and evaluate_every of at least 1 and max_steps of at least 0, found {self.batch}, "
                f"{self.evaluate_every} and {self.max_steps}"
            )


PAPER: dict[str, Any] = {
    "kind": "affine_ln",
    "fit": "task",
    "start": "random",
    "recipe": Recipe(optimizer="sgd", lr=0.1, max_steps=2000, warmup=200, decay=True, clip=1.0, patience=None),
}
"""The settings of arXiv 2310.14993 as arguments of `Stitch`: `Stitch(front, back, site, **PAPER)`.

SGD with Nesterov momentum 0.9, 2000 steps with 200 of warm-up, then a linear decay, gradients clipped to norm 1, from
random weights. The paper's learning rate is 1.0 in the units of the tuned-lens library, whose other settings it uses.
That library multiplies the rate by 1 - momentum, so it is 0.1 here. The paper does not state its batch size.
"""


def fit_task(
    front: nn.Module,
    back: nn.Module,
    tokens: Int[Tensor, "sequences pos"],
    pair: Pair,
    kind: Kind,
    rank: int | None = None,
    start: MapStart = "direct",
    recipe: Recipe | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train one stitch and return the map that was best on the sequences of `split(tokens)[1]`, possibly the first.

    Training ends if it diverges (a loss or gradient that is not finite, or a held-out loss above twice that of the
    start and of a uniform guess), and the note says so.

    Args:
        front: the front model.
        back: the back model.
        tokens: to fit on, at least 10 sequences.
        pair: (front site, back site).
        kind: kind of map.
        rank: rank of `low_rank`.
        start: the direct stitch of the same sequences, the identity, or random weights.
        recipe: how to train; by default `Recipe()`.
        progress: called with the step and the held-out loss, in nats per token, at each evaluation.

    Returns:
        the best map and how training ended.
    """
    recipe = recipe or Recipe()
    if start not in ("direct", "identity", "random"):
        raise ValueError(f"expected start direct, identity or random, found {start!r}")
    with torch.inference_mode(False), torch.enable_grad():
        fit, choose = split(tokens.clone())
        if start == "direct":
            first = fit_direct(front, back, tokens, [pair], kind, rank, together=False)[pair]
        else:
            ((p, q),) = widths_of(front, back, [pair], tokens).values()
            first = Fitted(cold_map(kind, p, q, rank, start, recipe.seed))
        stitch = first.map.to(device_of(back), map_dtype(back))
        training, validation = _CachedActivations(front, pair[0], fit), _CachedActivations(front, pair[0], choose)
        run = _Training(back, pair[1], stitch, training, validation, recipe, progress)
        steps, converged, note = (0, True, "") if kind == "identity" else run.until_done()
    return Fitted(stitch, first.ridge, steps, converged, "; ".join(part for part in (first.note, note) if part))


class _CachedActivations:
    """The activations of some sequences at one site, cached if they fit in memory, else captured on request."""

    def __init__(self, model: nn.Module, site: str, tokens: Tensor) -> None:
        self.model, self.site, self.tokens = model, site, tokens
        self.cache: Tensor | None = None
        pieces = []
        for batch in batches_of(tokens):
            pieces.append(self._capture(batch))
            if pieces[0][0].nbytes * len(tokens) > MEMORY:
                return
        self.cache = torch.cat(pieces)

    def _capture(self, tokens: Tensor) -> Tensor:
        with capture(self.model, self.site) as acts:
            self.model(tokens.to(device_of(self.model)))
        return acts[self.site]

    def at(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return the activations and the tokens of the sequences at an index."""
        tokens = self.tokens[index]
        return self._capture(tokens) if self.cache is None else self.cache[index], tokens


@dataclass
class _Training:
    """The training of one map."""

    back: nn.Module
    site: str
    stitch: nn.Module
    training: _CachedActivations
    validation: _CachedActivations
    recipe: Recipe
    progress: Progress | None

    def until_done(self) -> tuple[int, bool, str]:
        """Train, leave the best parameters in the map, and return its step, whether training converged, and a note."""
        recipe, step, best_step, stalled, diverged = self.recipe, 0, 0, 0, False
        optimizer = self._optimizer()
        batches = self._batches()
        start = best = last_fall = self.held_out()
        best_state = deepcopy(self.stitch.state_dict())
        limit = 2 * max(start if math.isfinite(start) else 0.0, math.log(self._vocabulary()))
        self._report(0, start)
        while step < recipe.max_steps and (recipe.patience is None or stalled < recipe.patience):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * self._factor(step)
            if not self._step(optimizer, next(batches)):
                diverged = True
                break
            step += 1
            if step % recipe.evaluate_every and step < recipe.max_steps:
                continue
            loss = self.held_out()
            self._report(step, loss)
            if not loss <= limit:
                diverged = True
                break
            if not loss >= best:
                best, best_step, best_state = loss, step, deepcopy(self.stitch.state_dict())
            stalled = 0 if not loss > last_fall - recipe.min_improvement else stalled + 1
            last_fall = last_fall if stalled else loss
        self.stitch.load_state_dict(best_state)
        if diverged:
            return best_step, False, f"diverged at step {step}: the map of step {best_step} is kept"
        converged = recipe.patience is None or stalled >= recipe.patience
        return best_step, converged, "" if converged else f"the loss was still falling at step {step}"

    def held_out(self) -> float:
        """Return the loss on the validation sequences in nats per token."""
        losses = []
        for first, last, _ in cut_sequences(
            len(self.validation.tokens), 1, sequences_per_batch(self.validation.tokens.shape[1])
        ):
            activation, tokens = self.validation.at(slice(first, last))
            losses.append(stitched_losses(self.back, self.site, self.stitch, activation, tokens))
        return float(torch.cat(losses).double().mean())

    def loss(self, activation: Float[Tensor, "batch pos p"], tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
        """Return the loss of one batch, with gradients for the map."""
        stream = self.stitch(activation.to(device_of(self.back)))
        return sequence_losses(logits_of(enter(self.back, self.site, stream, tokens, gradients=True)), tokens).mean()

    def _step(self, optimizer: torch.optim.Optimizer, batch: Tensor) -> bool:
        """Update the map once and return True; if the loss or the gradient is not finite, return False instead."""
        loss = self.loss(*self.training.at(batch))
        optimizer.zero_grad()
        if not bool(torch.isfinite(loss)):
            return False
        loss.backward()
        limit = math.inf if self.recipe.clip is None else self.recipe.clip
        norm = nn.utils.clip_grad_norm_(self.stitch.parameters(), limit)
        if not bool(torch.isfinite(norm)):
            return False
        optimizer.step()
        return True

    def _optimizer(self) -> torch.optim.Optimizer:
        if self.recipe.optimizer == "adam":
            return torch.optim.Adam(self.stitch.parameters(), lr=self.recipe.lr)
        return torch.optim.SGD(self.stitch.parameters(), lr=self.recipe.lr, momentum=0.9, nesterov=True)

    def _factor(self, step: int) -> float:
        """Return the learning rate at a step as a share of the highest one."""
        if step < self.recipe.warmup:
            return (step + 1) / self.recipe.warmup
        decay_steps = self.recipe.max_steps - self.recipe.warmup
        return (self.recipe.max_steps - step) / decay_steps if self.recipe.decay else 1.0

    def _batches(self):
        """Yield the indices of the sequences of each step; every epoch visits them in a new order."""
        generator = torch.Generator().manual_seed(self.recipe.seed)
        size = min(self.recipe.batch, len(self.training.tokens))
        while True:
            order = torch.randperm(len(self.training.tokens), generator=generator)
            yield from (order[first : first + size] for first in range(0, len(order) - size + 1, size))

    def _vocabulary(self) -> int:
        activation, tokens = self.validation.at(slice(0, 2))
        stream = self.stitch(activation.to(device_of(self.back)))
        return logits_of(enter(self.back, self.site, stream.detach(), tokens)).shape[-1]

    def _report(self, step: int, loss: float) -> None:
        if self.progress is not None:
            self.progress(step, loss)
