"""The study `generalization`: which models will fail elsewhere, seen from in-distribution inputs alone?

Finding (ii) of arXiv 2310.14993, and what its authors left open: the models are grouped automatically, from distances
on in-distribution inputs; what happens out of distribution only says whether the groups are right.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from studies.common.results import Results

CASES = ("planted", "honest", "both")


def generalization(
    cfg: DictConfig,
    family: str,
    case: str,
    groups: Mapping[str, Any] | None,
    ood: str | None,
    share: float | None,
    examples: int,
    sequences: int,
    stitched: int,
    pairs: int,
    points: int | None,
    checkpoints: int,
    sizes: Mapping[str, Any],
) -> Results:
    """Trains what is missing, groups the models by each measure, and holds that against what they do elsewhere.

    Args:
        cfg: the config of analyze.py; `models` takes fine-tuned models that exist, else `size` says what is trained.
        family: of the models that are trained.
        case: what is trained: `planted`, two kinds of model; `honest`, one kind; or `both`.
        groups: the true groups, name -> URIs out of `models`; None: the planted kinds, or groups of the accuracies.
        ood: the split whose accuracies are the truth; None for the one on which models differ most.
        share: of the models in the top and in the bottom group; None for as the accuracies fall.
        examples: of each split that accuracies are taken on, at most.
        sequences: in-distribution examples that models are compared on, at most.
        stitched: examples of each split that stitched models are tried on, at most; 0 for no stitching.
        pairs: stitched pairs of each of the four kinds, at most.
        points: on the line between two models' weights; None for no barriers.
        checkpoints: of each run that the groups are looked for at, besides its end; 0 for none.
        sizes: by size `width` and `depth`, `start` (overrides of the training of one, or the URI of one that exists),
            `finetune` (overrides of every fine-tuning), `planted` (kind -> further ones), `honest` (further ones) and
            `seeds`.

    Raises:
        ValueError: fewer than four models, models that classify nothing or other labels, an unknown case, size, split
            or group, a failed training.
    """
    if case not in CASES:
        raise ValueError(f"study.case={case}: expected one of {', '.join(CASES)}")
    uris, kinds = list(cfg.models), {name: list(members) for name, members in (groups or {}).items()}
    if not uris:
        uris, planted = _trained(cfg, family, case, sizes)
        kinds = kinds or planted
    _check(uris, kinds, share)

    from rich.console import Console

    from studies.generalization.figures import figures
    from studies.generalization.measured import measure
    from studies.generalization.text import summary, terminal_tables

    terminal = Console(stderr=True, highlight=False)
    counts = {"examples": examples, "sequences": sequences, "stitched": stitched, "pairs": pairs}
    with terminal.status("loading the models") as status:
        measured = measure(cfg, uris, kinds, ood, share, counts, points, checkpoints, status.update)
    return Results(
        table=measured.table,
        summary=summary(measured.found, measured.notes),
        figures=figures(measured.found),
        provenance=measured.notes,
        shown=terminal_tables(measured.found),
        next_command=_next(cfg, case, uris),
    )


def _trained(
    cfg: DictConfig, family: str, case: str, sizes: Mapping[str, Any]
) -> tuple[list[str], dict[str, list[str]]]:
    """URIs of the fine-tunings of one start, and of each planted kind; trained where they are missing."""
    from studies.common.trainings import Sweep, size_of, trained

    wanted = size_of(cfg, sizes)
    if case != "honest" and not wanted.get("planted"):
        raise ValueError(
            f"size={cfg.size} study.case={case}: no kinds are planted at this size; type study.case=honest"
        )
    shape = (family,), (wanted["width"],), (wanted["depth"],)
    seeds, more, start, begin = tuple(wanted["seeds"]), tuple(wanted["finetune"]), wanted["start"], []
    if not isinstance(start, str):
        begin = [Sweep(*shape, (0,), more=tuple(start))]
        start = f"runs/{begin[0].names[0]}"

    # Each kind has seeds of its own: two models that share head and order are near each other whatever they learned.
    every = {**wanted["planted"], "honest": wanted["honest"]}
    sweeps = {}
    for number, (label, special) in enumerate(every.items()):
        if case in ("both", "honest" if label == "honest" else "planted"):
            own = tuple(seed + number * (1 + max(seeds)) for seed in seeds)
            sweeps[label] = Sweep(*shape, own, more=(*more, *special), start=start, label=label)
    uris = trained(cfg, "generalization", [*begin, *sweeps.values()])[len(begin) :]
    folder = f"runs/generalization-{cfg.size}"
    kinds = {label: [f"{folder}/{name}" for name in sweep.names] for label, sweep in sweeps.items()}
    return uris, kinds if case == "planted" else {}


def _check(uris: Sequence[str], kinds: Mapping[str, Sequence[str]], share: float | None) -> None:
    """What can be refused before a model is loaded."""
    from studies.generalization.clusters import LEAST

    if len(uris) < LEAST:
        raise ValueError(
            f"models=[{','.join(uris)}]: expected {LEAST} models or more, for a group has two members at least, found "
            f"{len(uris)}; fine-tune more: python train.py -m task=classify init_from=... seed=range(20)"
        )
    strangers = sorted({uri for members in kinds.values() for uri in members} - set(uris))
    if strangers:
        raise ValueError(f"study.groups: {', '.join(strangers)} is not among models=[{','.join(uris)}]; name it there")
    named = [uri for members in kinds.values() for uri in members]
    twice = sorted({uri for uri in named if named.count(uri) > 1})
    if twice:
        raise ValueError(f"study.groups: {', '.join(twice)} is in two groups; a model has one")
    if kinds and (len(kinds) < 2 or min(map(len, kinds.values())) < 2):
        found = ", ".join(f"{name} of {len(members)}" for name, members in kinds.items())
        raise ValueError(f"study.groups: expected two groups or more of two models or more each, found {found}")
    if share is not None and not 0 < share <= 0.5:
        raise ValueError(f"study.share={share}: expected a share of the models, above 0 and up to 0.5, or null")


def _next(cfg: DictConfig, case: str, uris: Sequence[str]) -> str:
    if cfg.models:
        return f"python analyze.py study=generalization measures=all name=generalization_all models=[{','.join(uris)}]"
    other = "honest" if case != "honest" else "planted"
    return f"python analyze.py study=generalization study.case={other} name=generalization_{other}"
