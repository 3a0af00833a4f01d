"""What the study `generalization` measures on its models: distances, accuracies, stitched models and barriers."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from omegaconf import DictConfig

from data.probe import probe_hash
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.probe.outliers import control_of
from dissimilarity.stitching.block_swap import front_sites
from launch.machine import device_of
from models import references
from models.classifier import Classifier
from models.references import steps_of
from studies.common.inputs import Subject, data_of, load_subjects, measures_of
from studies.generalization.classifiers import accuracy, barriers, examples_of, stitched
from studies.generalization.numbers import BARRIERS, Findings, Truth, findings, truth_of

IN = "in distribution"


@dataclass(frozen=True)
class Measured:
    """The table of distances (`step` in front; null = the end of training), findings, and what provenance.json says."""

    table: pa.Table
    found: Findings
    notes: dict[str, Any]


def measure(
    cfg: DictConfig,
    uris: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    ood: str | None,
    share: float | None,
    counts: Mapping[str, int],
    points: int | None,
    checkpoints: int,
    tell: Callable[[str], object],
) -> Measured:
    """Everything that is measured; arguments as for `generalization`.

    Only in-distribution examples reach distances, groups and barriers.

    Raises:
        ValueError: models that classify nothing or other labels, no split out of distribution, or not the one named.
    """
    subjects = load_subjects(uris, cfg.runs_dir, cfg.device)
    models = _classifiers(subjects)
    labels = [subject.label for subject in subjects]
    data = data_of(cfg, [subject.reference for subject in subjects if subject.reference is not None])[0]
    _check_data(data, subjects, ood)
    real = models[0].real
    splits = {IN: "val", **{split: split for split in data.ood}}
    given = {name: [labels[uris.index(uri)] for uri in members] for name, members in groups.items()}
    accuracies = {}
    for name, split in splits.items():
        tell(f"accuracy on {split}")
        these = examples_of(data, split, counts["examples"], real)
        accuracies[name] = np.array([accuracy(model, these) for model in models])
    truth = truth_of(labels, accuracies, ood, given, share)

    probe = examples_of(data, "val", counts["sequences"], real)
    mask = None if cfg.include_padding else real(probe.tokens)
    sites = cfg.sites if cfg.sites is None or isinstance(cfg.sites, str) else list(cfg.sites)

    def compared(loaders: Mapping[str, Any], words: str) -> pa.Table:
        options: Any = dict(null=False, control=control_of(cfg.control), mask=mask)
        say = lambda doing: tell(f"{doing}{words}")  # noqa: E731
        return compare_many(loaders, probe.tokens, sites, measures_of(cfg), "matched", on_progress=say, **options)

    table = compared(dict(zip(labels, models, strict=True)), "")
    home = device_of(cfg.device)
    soon = {}
    for step in _steps(subjects, checkpoints):
        loaders = {
            label: (lambda uri=f"{uri}@{step}": references.load(uri, cfg.runs_dir).model.to(home))
            for label, uri in zip(labels, uris, strict=True)
        }
        soon[step] = compared(loaders, f", step {step}")
    between: dict[str, np.ndarray] = {}
    if points is not None:
        between = dict(zip(BARRIERS, barriers(models, probe, points, tell), strict=True))
    chosen = _pairs(truth, counts["pairs"]) if counts["stitched"] else {}
    cut = {name: examples_of(data, split, counts["stitched"], real) for name, split in splits.items() if chosen}
    every = [pair for each in chosen.values() for pair in each]
    accurate = stitched(models, every, cut, tell)
    curves = {
        split: {kind: np.stack([of[pair] for pair in each]) for kind, each in chosen.items()}
        for split, of in accurate.items()
    }
    tell("groups")
    found = findings(labels, table, between, soon, accuracies, truth, curves)
    whole = pa.concat_tables([_with_step(table, None), *(_with_step(each, step) for step, each in soon.items())])
    notes = {
        "models": {subject.label: subject.provenance for subject in subjects},
        "probe": {
            "sequences": len(probe.tokens),
            "split": "val",
            "sha256": probe_hash(probe.tokens),
            "data_fingerprint": data.fingerprint,
            "truncated": data.truncated,
            "include_padding": mask is None,
        },
        "accuracies": {split: dict(zip(labels, each.tolist(), strict=True)) for split, each in accuracies.items()},
        "groups": {label: int(group) for label, group in zip(labels, truth.labels, strict=True)},
    }
    return Measured(whole, found, notes)


def _classifiers(subjects: Sequence[Subject]) -> list[Classifier]:
    """The models themselves; raises ValueError where one classifies nothing, or not as the first does."""
    models, first = [], subjects[0].reference
    for subject in subjects:
        labels = None if subject.reference is None else subject.reference.labels
        if labels is None or not isinstance(subject.source, Classifier):
            raise ValueError(
                f"models: {subject.provenance['uri']} tells no labels apart; this study takes models that were trained "
                "with task=classify"
            )
        assert first is not None
        if labels != first.labels:
            raise ValueError(
                f"models: expected models of one task, found labels {', '.join(first.labels or ())} of "
                f"{first.provenance['uri']} and {', '.join(labels)} of {subject.provenance['uri']}"
            )
        models.append(subject.source)
    depths = [len(front_sites(model)) - 1 for model in models]
    if len(set(depths)) > 1:
        other = next(index for index, depth in enumerate(depths) if depth != depths[0])
        raise ValueError(
            f"models: expected fine-tunings of one start, found {depths[0]} blocks in {subjects[0].provenance['uri']} "
            f"and {depths[other]} in {subjects[other].provenance['uri']}; study=scaling takes models of other depth"
        )
    return models


def _check_data(data: Any, subjects: Sequence[Subject], ood: str | None) -> None:
    """Labeled data whose labels are the models', with a split out of distribution."""
    labels = subjects[0].reference.labels  # pyright: ignore[reportOptionalMemberAccess]
    if not hasattr(data, "labels"):
        raise ValueError("data: this text has no labels; type data=heuristics, or data=pairs_file for own")
    if tuple(data.labels) != labels:
        raise ValueError(
            f"data: its labels are {', '.join(data.labels)}, and the models' {', '.join(labels or ())}; give the data "
            "that they were trained on, or a mapping data.labels={theirs: ours}"
        )
    for subject in subjects:
        assert subject.reference is not None
        references.check_tokenizer(subject.reference, data.tokenizer)
    if not data.ood:
        raise ValueError(
            "data: there is no split out of distribution, by which to say whether groups are right; give one, such as "
            "data=pairs_file with further files"
        )
    if ood is not None and ood not in data.ood:
        raise ValueError(f"study.ood={ood}: expected a split out of distribution: {', '.join(data.ood)}")


def _steps(subjects: Sequence[Subject], most: int) -> list[int]:
    """Steps at which all of the models were saved and that are not their last, at most so many.

    The schedule saves at powers of two at first, so that these are even on the logarithmic scale.
    """
    there: set[int] | None = None
    for subject in subjects:
        last, folder = subject.provenance["step"], Path(subject.provenance["path"]).parent.parent
        steps = (
            {step for step in steps_of(folder) if last is None or step < last} if "@" not in subject.label else set()
        )
        there = steps if there is None else there & steps
    return _log_spread(sorted(there or ()), most)


def _log_spread(steps: list[int], most: int) -> list[int]:
    """Of some steps at most so many, evenly spread on the logarithmic scale, the first and the last among them."""
    if len(steps) <= most or most < 2:
        return steps[-most:] if most else []
    wanted = np.geomspace(steps[0] + 1, steps[-1] + 1, most) - 1
    return sorted({min(steps, key=lambda step, w=w: abs(np.log1p(step) - np.log1p(w))) for w in wanted})


def _pairs(truth: Truth, most: int) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """(group in front, group behind) -> ordered pairs of models, at most so many of each, drawn once and for all."""
    two, chance, found = truth.two, random.Random(0), {}
    for front in two or ():
        for back in two or ():
            every = [
                (int(a), int(b))
                for a in np.nonzero(truth.labels == front)[0]
                for b in np.nonzero(truth.labels == back)[0]
                if a != b
            ]
            found[truth.names[front], truth.names[back]] = sorted(chance.sample(every, min(most, len(every))))
    return found


def _with_step(table: pa.Table, step: int | None) -> pa.Table:
    return table.add_column(0, "step", pa.array([step] * table.num_rows, pa.int64()))
