"""The study `dynamics`: when does each layer of a run reach its final form, and do lower layers come first?

Raghu et al. (2017, section 4.1) saw layers converge bottom-up by SVCCA. This study adds another seed as a floor, a
null, and a test of the order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor, nn

from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.comparison.saved import sites_of
from dissimilarity.figures.style import spread
from dissimilarity.inference.coverage import FEWEST_MODELS, SEEDS
from dissimilarity.probe.outliers import control_of
from launch.machine import training_device
from models import references
from models.references import steps_of
from studies.common.inputs import (
    load_without_weights,
    loss_of,
    measures_of,
    probe_of_one_tokenizer,
    short_labels,
    sites_of_config,
    with_probe,
)
from studies.common.next_command import larger, models_override
from studies.common.primary import check_primary
from studies.common.progress import progress_of
from studies.common.results import Results
from studies.common.trainings import Sweep, size_of, trained
from studies.dynamics.figures import figures
from studies.dynamics.numbers import findings
from studies.dynamics.text import summary, terminal_tables

MIN_CHECKPOINTS = 3


@dataclass(frozen=True)
class Measured:
    """What is measured on the checkpoints.

    Attributes:
        table: every two checkpoints of each run and of the first two runs, and the last ones of every two runs.
        probe: the entry of the probe set in provenance.json.
        hashes: label of a checkpoint -> hash of its file.
        losses: label of a checkpoint -> loss on the probe set.
    """

    table: pa.Table
    probe: dict[str, Any]
    hashes: dict[str, str]
    losses: dict[str, float]


def dynamics(
    cfg: DictConfig,
    family: str,
    checkpoints: int | None,
    sequences: int,
    length: int,
    n_units: int | None,
    primary_measure: str,
    sizes: Mapping[str, Any],
) -> Results:
    """Train what is missing, compare every two checkpoints layer by layer, and answer.

    Args:
        cfg: config of analyze.py; `models` lists finished runs. If it is empty, `size` says what is trained.
        family: family of the runs that are trained.
        checkpoints: maximum number of checkpoints per run; None for all.
        sequences: number of held-out sequences if probe.sequences is not set.
        length: tokens per sequence if probe.length is not set.
        n_units: number of units of sequences for the error bars; None: each sequence is one.
        primary_measure: label of the measure whose order of the layers is tested; the others are exploratory.
        sizes: by size: `width`, `depth`, `seeds` and overrides of the trainings (`train`).

    Raises:
        ValueError: Runs of different depth, no such measure, or a failed training.
    """
    check_primary(cfg, primary_measure)
    uris = list(cfg.models)
    if not uris:
        size = size_of(cfg, sizes)
        seeds, overrides = tuple(size["seeds"]), tuple(size["train"])
        sweep = Sweep((family,), (size["width"],), (size["depth"],), seeds, overrides=overrides)
        uris = trained(cfg, "dynamics", [sweep])
    names = dict(zip(uris, short_labels(uris), strict=True))
    steps = {uri: _steps(uri, cfg.runs_dir, checkpoints) for uri in uris}
    labels = {names[uri]: [(f"{names[uri]}@{step}", step) for step in steps[uri]] for uri in uris}
    terminal = Console(stderr=True, highlight=False)
    with terminal.status("loading the runs") as status:
        measured = _compare(with_probe(cfg, sequences, length), uris, labels, n_units, progress_of(status))
    numbers = findings(measured.table, labels, primary_measure)
    losses = {run: [measured.losses[label] for label, _ in points] for run, points in labels.items()}
    notes = {
        "models": measured.hashes,
        "runs": {name: uri for uri, name in names.items()},
        "probe": measured.probe,
        "losses": losses,
    }
    return Results(
        table=measured.table,
        summary=summary(numbers, notes),
        figures=figures(numbers, losses),
        provenance=notes,
        shown=terminal_tables(numbers),
        next_command=_next_command(cfg, uris),
        coverage=SEEDS if len(uris) >= FEWEST_MODELS else "",
    )


def _compare(
    cfg: DictConfig,
    uris: list[str],
    labels: Mapping[str, list[tuple[str, int]]],
    n_units: int | None,
    on_progress: Callable[[str], object],
) -> Measured:
    """Compare every two checkpoints of each run and of the first two runs, and the last ones of every two runs.

    Args:
        cfg: config of analyze.py, with the size of the probe set.
        uris: the runs.
        labels: run -> (label, step) of its checkpoints.
        n_units: number of units of sequences for the error bars; None: each sequence is one.
        on_progress: called with a status message.
    """
    sites, device = sites_of_config(cfg), training_device(cfg.device)
    subjects = load_without_weights(uris, cfg.runs_dir, on_progress)
    layers = [sites_of(subject.source, sites) for subject in subjects]  # pyright: ignore
    if len({tuple(names) for names in layers}) > 1:
        raise ValueError(
            f"models=[{','.join(uris)}]: expected runs of the same layers, found "
            f"{' and '.join(dict.fromkeys(str(len(names)) for names in layers))}; type study=scaling for models of "
            "different depth"
        )
    probe = probe_of_one_tokenizer(cfg, subjects)
    tokens = probe.tokens
    assert tokens is not None
    hashes: dict[str, str] = {}
    losses: dict[str, float] = {}

    def loader(uri: str, label: str, tokens: Tensor) -> Callable[[], nn.Module]:
        def load() -> nn.Module:
            reference = references.load(uri, cfg.runs_dir)
            net = reference.model.to(device)
            hashes[label], losses[label] = reference.provenance["sha256"], loss_of(net, tokens)[0]
            return net

        return load

    loaders = {
        label: loader(f"{uri}@{step}", label, tokens)
        for uri, points in zip(uris, labels.values(), strict=True)
        for label, step in points
    }
    table = compare_many(
        loaders,
        tokens,
        sites,
        measures_of(cfg),
        "matched",
        n_units=n_units,
        control=control_of(cfg.control),
        couples=_couples([[label for label, _ in points] for points in labels.values()]),
        on_progress=on_progress,
        mask=probe.mask,
    )
    return Measured(table.arrow, probe.notes, hashes, losses)


def _couples(runs: list[list[str]]) -> list[tuple[str, str]]:
    """Return the pairs of checkpoints that are compared, from the labels of each run's checkpoints."""
    couples = [couple for run in runs for couple in combinations(run, 2)]
    couples += [(a, b) for a in runs[0] for b in runs[1]] if len(runs) > 1 else []
    return couples + [(a[-1], b[-1]) for a, b in list(combinations(runs, 2))[1:]]


def _steps(uri: str, runs_dir: str, limit: int | None) -> list[int]:
    """Return the steps at which a run was saved, at most `limit` of them, including the first and the last."""
    name = uri.removeprefix("runs/")
    folder = Path(runs_dir) / name if uri.startswith("runs/") else Path(uri)
    if "@" in uri or uri.endswith(".ckpt") or ":" in uri:
        raise ValueError(f"models: {uri}: this study takes whole runs, runs/NAME, because it reads their checkpoints")
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"models: there is no run {folder.absolute()}")
    steps = sorted(steps_of(folder))
    if len(steps) < MIN_CHECKPOINTS:
        raise ValueError(
            f"models: {uri} has {len(steps)} checkpoints, and {MIN_CHECKPOINTS} are needed: train it with a lower "
            "schedule.every=..., or with checkpoints.keep=every or all"
        )
    return steps if limit is None else spread(steps, limit)


def _next_command(cfg: DictConfig, uris: list[str]) -> str | None:
    command = larger(cfg, "dynamics")
    if not cfg.models and command is not None:
        return command
    if cfg.sites is None:
        return f"python analyze.py study=dynamics {models_override(uris)} sites=blocks.*.mlp_out name=dynamics_mlp"
    return None
