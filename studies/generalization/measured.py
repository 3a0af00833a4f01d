"""Measurements of the study `generalization`: distances, accuracies, stitched models and barriers."""

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
from launch.machine import training_device
from models import references
from models.classifier import Classifier
from models.references import steps_of
from studies.common.inputs import Subject, data_of, load_subjects, measures_of, sites_of_config
from studies.generalization.classifiers import Examples, accuracy, barriers, examples_of, stitched
from studies.generalization.numbers import BARRIERS, Findings, findings
from studies.generalization.truth import Truth, truth_of

IN_DISTRIBUTION = "in distribution"


@dataclass(frozen=True)
class Options:
    """The study's own keys, documented at `generalization`."""

    reference_groups: Mapping[str, Sequence[str]]
    ood: str | None
    share: float | None
    examples: int
    sequences: int
    stitched: int
    pairs: int
    points: int | None
    checkpoints: int
    primary: tuple[str, str]


@dataclass(frozen=True)
class Measured:
    """The table of distances (`step` in front; null = the end of training), the numbers, and notes for provenance."""

    table: pa.Table
    findings: Findings
    notes: dict[str, Any]


@dataclass(frozen=True)
class _Inputs:
    """The models and the data.

    Attributes:
        subjects: one per model.
        models: the classifiers themselves.
        labels: labels of the subjects.
        data: labeled data.
        splits: name in the results -> split of the data, in distribution first.
    """

    subjects: list[Subject]
    models: list[Classifier]
    labels: list[str]
    data: Any
    splits: dict[str, str]

    def examples(self, split: str, count: int) -> Examples:
        """Return at most `count` examples of a split."""
        return examples_of(self.data, self.splits[split], count, self.models[0].real)


def measure(cfg: DictConfig, uris: Sequence[str], options: Options, on_progress: Callable[[str], object]) -> Measured:
    """Measure everything. Distances, clusters and barriers use only in-distribution examples.

    Args:
        cfg: config of analyze.py.
        uris: the models.
        options: the study's own keys.
        on_progress: called with a status message.

    Raises:
        ValueError: Models without labels or with different ones, or the split out of distribution does not exist.
    """
    inputs = _inputs(cfg, uris, options.ood)
    labels = inputs.labels
    accuracies = {}
    for name, split in inputs.splits.items():
        on_progress(f"accuracy on {split}")
        examples = inputs.examples(name, options.examples)
        accuracies[name] = np.array([accuracy(model, examples) for model in inputs.models])
    groups = {name: [labels[uris.index(uri)] for uri in members] for name, members in options.reference_groups.items()}
    truth = truth_of(labels, accuracies, options.ood, groups, options.share)

    probe = inputs.examples(IN_DISTRIBUTION, options.sequences)
    mask = None if cfg.include_padding else inputs.models[0].real(probe.tokens)
    table, earlier = _distances(cfg, uris, inputs, probe, mask, options.checkpoints, on_progress)
    between: dict[str, np.ndarray] = {}
    if options.points is not None:
        between = dict(zip(BARRIERS, barriers(inputs.models, probe, options.points, on_progress), strict=True))
    curves = _stitched(inputs, truth, options, on_progress)
    on_progress("clusters")
    numbers = findings(labels, table, between, earlier, accuracies, truth, curves, options.primary)
    steps = [_with_step(table, None), *(_with_step(part, step) for step, part in earlier.items())]
    notes = {
        "models": {subject.label: subject.provenance for subject in inputs.subjects},
        "probe": {
            "sequences": len(probe.tokens),
            "split": "val",
            "sha256": probe_hash(probe.tokens),
            "data_fingerprint": inputs.data.fingerprint,
            "truncated": inputs.data.truncated,
            "include_padding": mask is None,
        },
        "accuracies": {split: dict(zip(labels, values.tolist(), strict=True)) for split, values in accuracies.items()},
        "reference_groups": {label: int(group) for label, group in zip(labels, truth.labels, strict=True)},
    }
    return Measured(pa.concat_tables(steps), numbers, notes)


def _inputs(cfg: DictConfig, uris: Sequence[str], ood: str | None) -> _Inputs:
    subjects = load_subjects(uris, cfg.runs_dir, cfg.device)
    models = _classifiers(subjects)
    data = data_of(cfg, [subject.reference for subject in subjects if subject.reference is not None])[0]
    _check_data(data, subjects, ood)
    splits = {IN_DISTRIBUTION: "val", **{split: split for split in data.ood}}
    return _Inputs(subjects, models, [subject.label for subject in subjects], data, splits)


def _distances(
    cfg: DictConfig,
    uris: Sequence[str],
    inputs: _Inputs,
    probe: Examples,
    mask: Any,
    checkpoints: int,
    on_progress: Callable[[str], object],
) -> tuple[pa.Table, dict[int, pa.Table]]:
    """Return the table of every two models at the end of training, and that of earlier steps."""
    device = training_device(cfg.device)

    def compared(models: Mapping[str, Any], suffix: str) -> pa.Table:
        return compare_many(
            models,
            probe.tokens,
            sites_of_config(cfg),
            measures_of(cfg),
            "matched",
            null=False,
            control=control_of(cfg.control),
            on_progress=lambda message: on_progress(f"{message}{suffix}"),
            mask=mask,
        ).arrow

    table = compared(dict(zip(inputs.labels, inputs.models, strict=True)), "")
    earlier = {}
    for step in _steps(inputs.subjects, checkpoints):
        loaders = {
            label: (lambda uri=f"{uri}@{step}": references.load(uri, cfg.runs_dir).model.to(device))
            for label, uri in zip(inputs.labels, uris, strict=True)
        }
        earlier[step] = compared(loaders, f", step {step}")
    return table, earlier


def _stitched(
    inputs: _Inputs, truth: Truth, options: Options, on_progress: Callable[[str], object]
) -> dict[str, dict[tuple[str, str], np.ndarray]]:
    """Return split -> (front group, back group) -> (pairs, layers + 1) accuracy of stitched models."""
    kinds = _pairs(truth, options.pairs) if options.stitched else {}
    examples = {name: inputs.examples(name, options.stitched) for name in inputs.splits if kinds}
    pairs = [pair for members in kinds.values() for pair in members]
    accuracies = stitched(inputs.models, pairs, examples, on_progress)
    return {
        split: {kind: np.stack([by_pair[pair] for pair in members]) for kind, members in kinds.items()}
        for split, by_pair in accuracies.items()
    }


def _classifiers(subjects: Sequence[Subject]) -> list[Classifier]:
    """Return the models themselves, after a check that all are classifiers with the same labels and depth."""
    models, first = [], subjects[0].reference
    for subject in subjects:
        labels = None if subject.reference is None else subject.reference.labels
        if labels is None or not isinstance(subject.source, Classifier):
            raise ValueError(
                f"models: {subject.provenance['uri']} is not a classifier; this study takes models that were trained "
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
            f"models: expected models fine-tuned from the same one, found {depths[0]} blocks in "
            f"{subjects[0].provenance['uri']} and {depths[other]} in {subjects[other].provenance['uri']}; "
            "type study=scaling for models of different depth"
        )
    return models


def _check_data(data: Any, subjects: Sequence[Subject], ood: str | None) -> None:
    """Check that the data has the models' labels and tokens, and a split out of distribution."""
    labels = subjects[0].reference.labels  # pyright: ignore[reportOptionalMemberAccess]
    if not hasattr(data, "labels"):
        raise ValueError("data: this text has no labels; type data=heuristics, or data=pairs_file for your own files")
    if tuple(data.labels) != labels:
        raise ValueError(
            f"data: expected the labels of the models, {', '.join(labels or ())}, found {', '.join(data.labels)}; use "
            "the data that the models were trained on, or rename labels with data.labels={theirs: ours}"
        )
    for subject in subjects:
        assert subject.reference is not None
        references.check_tokenizer(subject.reference, data.tokenizer)
    if not data.ood:
        raise ValueError(
            "data: there is no split out of distribution, which this study needs for its reference groups; add one, "
            "such as data=pairs_file with further files"
        )
    if ood is not None and ood not in data.ood:
        raise ValueError(f"study.ood={ood}: expected a split out of distribution: {', '.join(data.ood)}")


def _steps(subjects: Sequence[Subject], limit: int) -> list[int]:
    """Return at most `limit` steps before the end at which all models were saved.

    They are evenly spread on the logarithmic scale, because the schedule saves at powers of two at first.
    """
    common: set[int] | None = None
    for subject in subjects:
        last, folder = subject.provenance["step"], Path(subject.provenance["path"]).parent.parent
        steps: set[int] = set()
        if "@" not in subject.label:
            steps = {step for step in steps_of(folder) if last is None or step < last}
        common = steps if common is None else common & steps
    return _log_spread(sorted(common or ()), limit)


def _log_spread(steps: list[int], limit: int) -> list[int]:
    """Return at most `limit` of the steps, evenly spread on the logarithmic scale, including the first and the last."""
    if len(steps) <= limit or limit < 2:
        return steps[-limit:] if limit else []
    targets = np.geomspace(steps[0] + 1, steps[-1] + 1, limit) - 1
    return sorted({min(steps, key=lambda step, t=target: abs(np.log1p(step) - np.log1p(t))) for target in targets})


def _pairs(truth: Truth, limit: int) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Return (front group, back group) -> at most `limit` ordered pairs of models, drawn with a fixed seed."""
    groups, rng, pairs = truth.best_and_worst, random.Random(0), {}
    for front in groups or ():
        for back in groups or ():
            ordered = [
                (int(a), int(b))
                for a in np.nonzero(truth.labels == front)[0]
                for b in np.nonzero(truth.labels == back)[0]
                if a != b
            ]
            pairs[truth.names[front], truth.names[back]] = sorted(rng.sample(ordered, min(limit, len(ordered))))
    return pairs


def _with_step(table: pa.Table, step: int | None) -> pa.Table:
    return table.add_column(0, "step", pa.array([step] * table.num_rows, pa.int64()))
