"""Stitches between trained models, as records; a journal holds those that were measured before an interruption."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dissimilarity.stitching import PAPER, Recipe, Stitch, baselines, direct_penalties
from dissimilarity.stitching.penalty import Penalty
from dissimilarity.tables.journal import Journal
from models import references
from studies.asymmetry.numbers import Record
from studies.common.runs import config_of, entry


@dataclass(frozen=True)
class ModelAtStep:
    """A model at one step of its training.

    Attributes:
        run: name of the run.
        family, width, depth, init_seed, data_seed: from its config.
        step: number of updates.
        last: whether this is the end of its training.
        net: the net, frozen.
        sha256: hash of the checkpoint.
        initial_net: returns a net of the same shape with initial weights.
    """

    run: str
    family: str
    width: int
    depth: int
    init_seed: int
    data_seed: int
    step: int
    last: bool
    net: nn.Module
    sha256: str
    initial_net: Callable[[], nn.Module]

    @property
    def sites(self) -> list[str]:
        """Return the residual stream after each block, where stitches go."""
        return [f"blocks.{layer}.resid_post" for layer in range(self.depth)]

    @property
    def shape(self) -> tuple[int, int]:
        """Return width and depth."""
        return self.width, self.depth


@dataclass(frozen=True)
class HeldOutText:
    """Tokens that no model was trained on.

    Attributes:
        fit: sequences on which maps are fitted.
        held_out: sequences on which penalties are measured.
        bytes_per_token: mean over the text.
        sha256: hash of both.
    """

    fit: Tensor
    held_out: Tensor
    bytes_per_token: float
    sha256: str


def load(runs_dir: Path, run: str, steps: Sequence[int] | None, device: Any) -> list[ModelAtStep]:
    """Load a run at some steps of its training, in order; at its end only if `steps` is None."""
    folder = runs_dir / run
    config = config_of(folder)
    shape: Any = {key: entry(config, key, int, folder) for key in ("width", "depth", "init_seed", "data_seed")}
    family = entry(config, "model.family", str, folder)
    end = references.load(f"runs/{run}", runs_dir)
    models = []
    for step in steps or [end.provenance["step"]]:
        last = step == end.provenance["step"]
        reference = end if last else references.load(f"runs/{run}@{step}", runs_dir)
        models.append(
            ModelAtStep(
                run=run,
                family=family,
                step=step,
                last=last,
                net=reference.model.to(device),
                sha256=reference.provenance["sha256"],
                initial_net=lambda: references.load(f"runs/{run}@0", runs_dir).model.to(device),
                **shape,
            )
        )
    return models


def kinship(a: ModelAtStep, b: ModelAtStep) -> str:
    """Return `self`, `sibling` for models with the same init seed, else `independent`."""
    if a.run == b.run:
        return "self"
    return "sibling" if a.init_seed == b.init_seed else "independent"


class Stitches:
    """Stitches, each measured once: those that the journal holds are read from it.

    Args:
        path: the journal.
        text: the text for fits and penalties.
        steps: maximum steps of a stitch trained from the closed form, and steps of the paper's recipe, a tenth of them
            warm-up.
    """

    def __init__(self, path: Path, text: HeldOutText, steps: int) -> None:
        self.journal, self.text = Journal(path), text
        recipe: Recipe = PAPER["recipe"]
        self.task = {"kind": "affine", "fit": "task", "recipe": Recipe(max_steps=steps)}
        self.paper = {**PAPER, "recipe": replace(recipe, max_steps=steps, warmup=steps // 10)}
        self.measured: dict[str, list[Record]] = {}
        for record in self.journal.read():
            self.measured.setdefault(record["key"], []).append(record)

    def direct(
        self, front: ModelAtStep, back: ModelAtStep, kind: str, sites: Sequence[tuple[str, str]]
    ) -> list[Record]:
        """Measure closed-form stitches at pairs of sites."""

        def measure() -> Iterator[Record]:
            penalties = direct_penalties(
                front.net,
                back.net,
                self.text.fit,
                self.text.held_out,
                list(sites),
                kind,  # pyright: ignore
                bytes_per_token=self.text.bytes_per_token,
            )
            for (site, back_site), penalty in penalties.items():
                yield record_of(front, back, "direct", kind, site, back_site, penalty)

        return self._once(f"direct {kind} {sites}", front, back, measure)

    def nulls(self, front: ModelAtStep, back: ModelAtStep, initial_net: nn.Module, site: str) -> list[Record]:
        """Measure the direct affine stitch from a front with random weights, and from one that reads different text."""

        def measure() -> Iterator[Record]:
            stitch = Stitch(front.net, back.net, site, kind="affine")
            penalties = baselines(stitch, self.text.fit, self.text.held_out, initial_net, self.text.bytes_per_token)
            for name in ("null_random", "null_shuffled"):
                yield record_of(front, back, name, "affine", site, site, penalties[name])

        return self._once(f"nulls {site}", front, back, measure)

    def trained(self, front: ModelAtStep, back: ModelAtStep, fit: str, site: str) -> list[Record]:
        """Train a stitch on the back model's loss: from the closed form (`task`) or by the paper's recipe (`paper`)."""
        options: dict[str, Any] = self.task if fit == "task" else self.paper

        def measure() -> Iterator[Record]:
            stitch = Stitch(front.net, back.net, site, **options).fit(self.text.fit)
            penalty = stitch.penalty(self.text.held_out, self.text.bytes_per_token)
            yield record_of(front, back, fit, options["kind"], site, site, penalty)

        return self._once(f"{fit} {options} {site}", front, back, measure)

    def _once(
        self, name: str, front: ModelAtStep, back: ModelAtStep, measure: Callable[[], Iterator[Record]]
    ) -> list[Record]:
        key = f"{name} {front.sha256} {back.sha256} {self.text.sha256}"
        if key not in self.measured:
            self.measured[key] = [{"key": key, **record} for record in measure()]
            self.journal.append(self.measured[key])
        return [{name: value for name, value in record.items() if name != "key"} for record in self.measured[key]]


def record_of(
    front: ModelAtStep, back: ModelAtStep, fit: str, kind: str, site: str, back_site: str, penalty: Penalty
) -> Record:
    """Return one stitch as a record of the table; losses in nats per token."""
    return {
        "front": front.run,
        "back": back.run,
        "family_front": front.family,
        "family_back": back.family,
        "width_front": front.width,
        "width_back": back.width,
        "depth": back.depth,
        "init_seed_front": front.init_seed,
        "init_seed_back": back.init_seed,
        "kinship": kinship(front, back),
        "step": back.step,
        "last": back.last,
        "site": site,
        "back_site": back_site,
        "kind": kind,
        "fit": fit,
        "penalty": penalty.value,
        "stderr": penalty.stderr,
        "penalty_bits_per_byte": penalty.bits_per_byte,
        "loss_front": penalty.loss_front,
        "loss_back": penalty.loss_back,
        "loss_stitched": penalty.loss_stitched,
        "ridge": penalty.ridge,
        "steps": penalty.steps,
        "converged": penalty.converged,
        "note": penalty.note,
    }
