"""The stitches of a study between trained models, as rows; what was measured before is read from a journal."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dissimilarity.stitching import PAPER, Recipe, Stitch, baselines, direct_penalties
from dissimilarity.stitching.penalty import Penalty
from dissimilarity.tables.journal import Journal
from models import references
from studies.common.runs import config_of, entry


@dataclass(frozen=True)
class Model:
    """One model at one point of its training.

    Attributes:
        run: name of the run.
        family, width, depth, init_seed, data_seed: from its config.
        step: updates done.
        last: whether that is the end of its training.
        net: the net, frozen.
        sha256: of the checkpoint.
        start: gives a net like it with starting weights.
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
    start: Callable[[], nn.Module]

    @property
    def sites(self) -> list[str]:
        """The residual stream after each block, where stitches go."""
        return [f"blocks.{layer}.resid_post" for layer in range(self.depth)]


@dataclass(frozen=True)
class Text:
    """Tokens that no model was trained on.

    Attributes:
        fit: maps are fitted on these sequences.
        held_out: penalties are measured on these.
        bytes_per_token: of the text.
        sha256: of both.
    """

    fit: Tensor
    held_out: Tensor
    bytes_per_token: float
    sha256: str


def load(runs_dir: Path, run: str, steps: Sequence[int] | None, device: Any) -> list[Model]:
    """A run at some steps of its training, in order; None: at its end only."""
    config = config_of(runs_dir / run)

    def said(key: str, kind: type[Any]) -> Any:
        return entry(config, key, kind, runs_dir / run)

    end = references.load(f"runs/{run}", runs_dir)
    found = []
    for step in steps or [end.provenance["step"]]:
        last = step == end.provenance["step"]
        reference = end if last else references.load(f"runs/{run}@{step}", runs_dir)
        found.append(
            Model(
                run=run,
                family=said("model.family", str),
                width=said("width", int),
                depth=said("depth", int),
                init_seed=said("init_seed", int),
                data_seed=said("data_seed", int),
                step=step,
                last=last,
                net=reference.model.to(device),
                sha256=reference.provenance["sha256"],
                start=lambda: references.load(f"runs/{run}@0", runs_dir).model.to(device),
            )
        )
    return found


def kinship(a: Model, b: Model) -> str:
    """`self`, `sibling` (same starting weights and order of text, or the same family from the same weights), else
    `independent`."""
    if a.run == b.run:
        return "self"
    return "sibling" if a.init_seed == b.init_seed else "independent"


class Stitches:
    """Measures stitches, or finds them in a journal that an earlier start left.

    Args:
        path: the journal.
        text: what they are fitted and measured on.
        steps: most steps of a stitch that is trained from the closed form, and those of the paper's recipe, a tenth of
            them warm-up.
    """

    def __init__(self, path: Path, text: Text, steps: int) -> None:
        self.journal, self.text = Journal(path), text
        recipe: Recipe = PAPER["recipe"]
        self.task = {"kind": "affine", "fit": "task", "recipe": Recipe(max_steps=steps)}
        self.paper = {**PAPER, "recipe": replace(recipe, max_steps=steps, warmup=steps // 10)}
        self.known: dict[str, list[dict[str, Any]]] = {}
        for row in self.journal.read():
            self.known.setdefault(row["key"], []).append(row)

    def direct(self, front: Model, back: Model, kind: str, sites: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """Closed-form stitches at pairs of sites."""

        def measure() -> Iterator[dict[str, Any]]:
            found = direct_penalties(
                front.net,
                back.net,
                self.text.fit,
                self.text.held_out,
                list(sites),
                kind,  # pyright: ignore
                bytes_per_token=self.text.bytes_per_token,
            )
            for (site, back_site), penalty in found.items():
                yield row_of(front, back, "direct", kind, site, back_site, penalty)

        return self._once(f"direct {kind} {sites}", front, back, measure)

    def nulls(self, front: Model, back: Model, start: nn.Module, site: str) -> list[dict[str, Any]]:
        """The direct affine stitch from a front with random weights, and from one that reads other sequences."""

        def measure() -> Iterator[dict[str, Any]]:
            stitch = Stitch(front.net, back.net, site, kind="affine")
            found = baselines(stitch, self.text.fit, self.text.held_out, start, self.text.bytes_per_token)
            for name in ("null_random", "null_shuffled"):
                yield row_of(front, back, name, "affine", site, site, found[name])

        return self._once(f"nulls {site}", front, back, measure)

    def trained(self, front: Model, back: Model, fit: str, site: str) -> list[dict[str, Any]]:
        """A stitch trained on the back model's loss: from the closed form until done (`task`), or `paper`'s way."""
        choices: dict[str, Any] = self.task if fit == "task" else self.paper

        def measure() -> Iterator[dict[str, Any]]:
            stitch = Stitch(front.net, back.net, site, **choices).fit(self.text.fit)
            penalty = stitch.penalty(self.text.held_out, self.text.bytes_per_token)
            yield row_of(front, back, fit, choices["kind"], site, site, penalty)

        return self._once(f"{fit} {choices} {site}", front, back, measure)

    def _once(
        self, what: str, front: Model, back: Model, measure: Callable[[], Iterator[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        key = f"{what} {front.sha256} {back.sha256} {self.text.sha256}"
        if key not in self.known:
            self.known[key] = [{"key": key, **row} for row in measure()]
            self.journal.append(self.known[key])
        return [{name: value for name, value in row.items() if name != "key"} for row in self.known[key]]


def row_of(
    front: Model, back: Model, fit: str, kind: str, site: str, back_site: str, penalty: Penalty
) -> dict[str, Any]:
    """One stitch as a row of the table; losses in nats per token."""
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
