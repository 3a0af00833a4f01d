"""The study `generalization`: which models will fail elsewhere, seen from in-distribution inputs alone?

It repeats finding (ii) of arXiv 2310.14993 and answers what the authors left open: models are clustered automatically,
from distances on in-distribution inputs. What happens out of distribution only says whether the clusters are right.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from dissimilarity.inference.coverage import FINE_TUNINGS
from studies.common.next_command import SIZES, larger, with_all_measures
from studies.common.primary import check_primary
from studies.common.progress import progress_of
from studies.common.results import Results
from studies.common.trainings import Sweep, size_of, trained
from studies.generalization.clusters import MIN_MODELS
from studies.generalization.figures import figures
from studies.generalization.measured import Options, measure
from studies.generalization.text import summary, terminal_tables

SEEDS_ONLY = "seeds_only"


def generalization(
    cfg: DictConfig,
    family: str,
    case: str,
    reference_groups: Mapping[str, Any] | None,
    ood: str | None,
    share: float | None,
    examples: int,
    sequences: int,
    stitched: int,
    pairs: int,
    points: int | None,
    checkpoints: int,
    primary_measure: str,
    primary_layer: str,
    sizes: Mapping[str, Any],
) -> Results:
    """Train what is missing, cluster the models by each measure, and compare the clusters with the reference groups.

    Args:
        cfg: config of analyze.py; `models` lists fine-tuned models. If it is empty, `size` says what is trained.
        family: family of the models that are trained.
        case: what is trained: `planted`, two kinds of model; `seeds_only`, one kind; or `both`.
        reference_groups: name -> URIs among `models`; None for the planted kinds, or groups of the accuracies.
        ood: the split whose accuracies are the truth; None for the one on which models differ most.
        share: share of the models in the top and in the bottom group; None for clusters of the accuracies.
        examples: maximum number of examples per split for accuracies.
        sequences: maximum number of in-distribution examples on which models are compared.
        stitched: maximum number of examples per split for stitched models; 0 for no stitching.
        pairs: maximum number of stitched pairs of each of the four kinds.
        points: number of points on the line between two models' weights; None for no barriers.
        checkpoints: maximum number of earlier steps at which models are clustered; 0 for none.
        primary_measure: label of the measure that the first answer is about; everything else is exploratory.
        primary_layer: `all`, or the site that the first answer is about.
        sizes: by size: `width` and `depth`; `init_from` (overrides of the training of a first model, or the URI of
            one); `finetune` (overrides of every fine-tuning); `planted` (kind -> further overrides); `seeds_only`
            (further overrides); `seeds`.

    Raises:
        ValueError: Fewer than four models, models without labels or with different ones, an unknown split or group, or
            a failed training.
    """
    check_primary(cfg, primary_measure)
    uris, groups = list(cfg.models), {name: list(members) for name, members in (reference_groups or {}).items()}
    if not uris:
        uris, planted = _trained(cfg, family, case, sizes)
        groups = groups or planted
    _check(uris, groups)
    primary = primary_measure, primary_layer
    options = Options(groups, ood, share, examples, sequences, stitched, pairs, points, checkpoints, primary)
    with Console(stderr=True, highlight=False).status("loading the models") as status:
        measured = measure(cfg, uris, options, progress_of(status))
    return Results(
        table=measured.table,
        summary=summary(measured.findings, measured.notes),
        figures=figures(measured.findings),
        provenance=measured.notes,
        shown=terminal_tables(measured.findings),
        next_command=_next_command(cfg, case, sizes),
        coverage=FINE_TUNINGS,
    )


def _trained(
    cfg: DictConfig, family: str, case: str, sizes: Mapping[str, Any]
) -> tuple[list[str], dict[str, list[str]]]:
    """Train what is missing; return the URIs of the fine-tuned models, and those of each planted kind."""
    size = size_of(cfg, sizes)
    if case != SEEDS_ONLY and not size.get("planted"):
        raise ValueError(
            f"size={cfg.size} study.case={case}: no kinds are planted at this size; type study.case={SEEDS_ONLY}"
        )
    shape = (family,), (size["width"],), (size["depth"],)
    seeds, first, init_from = tuple(size["seeds"]), [], size["init_from"]
    if not isinstance(init_from, str):
        first = [Sweep(*shape, (0,), overrides=tuple(init_from))]
        init_from = f"runs/{first[0].names[0]}"

    # No two kinds share a seed: models with the same head and data order are close to each other whatever they learned.
    kinds = {**size["planted"], SEEDS_ONLY: size[SEEDS_ONLY]}
    sweeps = {}
    for number, (kind, overrides) in enumerate(kinds.items()):
        if case in ("both", SEEDS_ONLY if kind == SEEDS_ONLY else "planted"):
            seeds_of_kind = tuple(seed + number * (1 + max(seeds)) for seed in seeds)
            overrides = (*size["finetune"], *overrides)
            sweeps[kind] = Sweep(*shape, seeds_of_kind, overrides=overrides, init_from=init_from, label=kind)
    uris = trained(cfg, "generalization", [*first, *sweeps.values()])[len(first) :]
    folder = f"runs/generalization-{cfg.size}"
    by_kind = {kind: [f"{folder}/{name}" for name in sweep.names] for kind, sweep in sweeps.items()}
    return uris, by_kind if case == "planted" else {}


def _check(uris: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
    """Check models and reference groups before a model is loaded."""
    if len(uris) < MIN_MODELS:
        raise ValueError(
            f"models=[{','.join(uris)}]: expected {MIN_MODELS} models or more, because a cluster has at least two "
            f"members, found {len(uris)}; fine-tune more: python train.py -m task=classify init_from=... seed=range(20)"
        )
    members = [uri for group in groups.values() for uri in group]
    unlisted = sorted(set(members) - set(uris))
    if unlisted:
        raise ValueError(
            f"study.reference_groups: {', '.join(unlisted)} is not among models=[{','.join(uris)}]; list it there too"
        )
    repeated = sorted({uri for uri in members if members.count(uri) > 1})
    if repeated:
        raise ValueError(f"study.reference_groups: {', '.join(repeated)} is in two groups; leave it in one")
    if groups and (len(groups) < 2 or min(map(len, groups.values())) < 2):
        sizes = ", ".join(f"{name} of {len(group)}" for name, group in groups.items())
        raise ValueError(
            f"study.reference_groups: expected two groups or more of two models or more each, found {sizes}"
        )


def _next_command(cfg: DictConfig, case: str, sizes: Mapping[str, Any]) -> str | None:
    if cfg.models:
        return with_all_measures(cfg, "generalization", cfg.models)
    command = "python analyze.py study=generalization"
    if case == "planted":
        return f"{command} size={cfg.size} study.case={SEEDS_ONLY} name=generalization_{SEEDS_ONLY}"
    if case == SEEDS_ONLY and sizes[cfg.size].get("planted"):
        return f"{command} size={cfg.size} study.case=planted name=generalization_planted"
    upper = SIZES[SIZES.index(cfg.size) + 1 :] if cfg.size in SIZES else ()
    return larger(cfg, "generalization") if upper and sizes[upper[0]].get("planted") else None
