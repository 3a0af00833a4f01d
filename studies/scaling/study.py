"""The study `scaling`: how differently do models of different width and depth represent text, and where?

It repeats finding (iii) of arXiv 2310.14993 and adds width alone and depth alone, several seeds per size as a floor,
the models' losses, a null, outlier control, and blocks of layers found in the data.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pyarrow as pa
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor, nn

from dissimilarity.capture.hooks import capture, device_of
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.comparison.saved import sites_of
from dissimilarity.inference.coverage import SEEDS
from dissimilarity.measures.base.measure import Measure
from dissimilarity.probe.outliers import Control, control_of
from launch.machine import training_device
from studies.common.inputs import (
    SharedProbe,
    Subject,
    load_without_weights,
    loss_of,
    measures_of,
    probe_of_one_tokenizer,
    sites_of_config,
    source_of,
    with_probe,
)
from studies.common.next_command import larger, with_all_measures
from studies.common.primary import check_primary
from studies.common.progress import progress_of
from studies.common.results import Results
from studies.common.runs import config_of, entry
from studies.common.trainings import Sweep, size_of, trained
from studies.scaling.figures import figures
from studies.scaling.numbers import findings
from studies.scaling.sizes import SizedModel
from studies.scaling.text import summary, terminal_tables

PLAIN, CONTROLLED = "as it is", "outlier control"


def scaling(
    cfg: DictConfig,
    family: str,
    sequences: int,
    length: int,
    n_units: int | None,
    block_by_block: bool,
    controlled: Mapping[str, Any] | None,
    primary_measure: str,
    primary_layer: str,
    sizes: Mapping[str, Any],
) -> Results:
    """Train what is missing, compare every two models at every two layers, and answer.

    Args:
        cfg: config of analyze.py; `models` lists finished models. If it is empty, `size` says what is trained.
        family: family of the models that are trained.
        sequences: number of held-out sequences if probe.sequences is not set.
        length: tokens per sequence if probe.length is not set.
        n_units: number of units of sequences for the error bars; None: each sequence is one.
        block_by_block: whether weights of `hf:` models are read from disk one block at a time.
        controlled: outlier control of a second comparison; None for none.
        primary_measure: label of the measure that the answer is about; the others are exploratory.
        primary_layer: `all`, or the `first`, `middle` or `last` block of layers, which the answer is about.
        sizes: by size: `shapes` (width and depth), `seeds` and overrides of the trainings (`train`).

    Raises:
        ValueError: Fewer than two models, models that cannot be compared, or a failed training.
    """
    check_primary(cfg, primary_measure)
    uris = list(cfg.models) or _trained(cfg, family, sizes)
    if len(uris) < 2:
        raise ValueError(
            f"models=[{','.join(uris)}]: expected two models or more of different size, found {len(uris)}; "
            "leave out models= to train some"
        )
    terminal = Console(stderr=True, highlight=False)
    with terminal.status("loading the models") as status:
        subjects = load_without_weights(uris, cfg.runs_dir, progress_of(status), block_by_block)
        _check(subjects)
        probe = probe_of_one_tokenizer(with_probe(cfg, sequences, length), subjects)
        controls = {PLAIN: control_of(cfg.control)}
        if controlled is not None:
            controls[CONTROLLED] = control_of(controlled)
        tables, models = _compare(
            cfg, subjects, probe, controls, measures_of(cfg), n_units, block_by_block, progress_of(status)
        )
    table = pa.concat_tables([_with_control(part, control) for control, part in tables.items()])
    numbers = findings(table, models, primary_measure, primary_layer)
    notes = {
        "models": {subject.label: subject.provenance for subject in subjects},
        "probe": probe.notes,
        "controls": {name: vars(control) for name, control in controls.items()},
        "losses": {model.label: model.loss for model in models},
    }
    return Results(
        table=table,
        summary=summary(numbers, notes),
        figures=figures(numbers, tables[PLAIN]),
        provenance=notes,
        shown=terminal_tables(numbers),
        next_command=_next_command(cfg),
        coverage=SEEDS,
    )


def _trained(cfg: DictConfig, family: str, sizes: Mapping[str, Any]) -> list[str]:
    """Train what is missing and return the URIs of all models."""
    size = size_of(cfg, sizes)
    seeds, overrides = tuple(size["seeds"]), tuple(size["train"])
    sweeps = [Sweep((family,), (width,), (depth,), seeds, overrides=overrides) for width, depth in size["shapes"]]
    return trained(cfg, "scaling", sweeps)


def _compare(
    cfg: DictConfig,
    subjects: Sequence[Subject],
    probe: SharedProbe,
    controls: Mapping[str, Control],
    measures: Sequence[Measure],
    n_units: int | None,
    block_by_block: bool,
    on_progress: Callable[[str], object],
) -> tuple[dict[str, pa.Table], list[SizedModel]]:
    """Return the table of every two models under each control, and the models, smaller ones first.

    Only one model is in memory at a time.
    """
    sites, device, tokens = sites_of_config(cfg), training_device(cfg.device), probe.tokens
    assert tokens is not None
    options: Any = {"n_units": n_units, "mask": probe.mask}
    losses: dict[str, tuple[float, float]] = {}
    widths: dict[str, int] = {}

    def loader(subject: Subject) -> Callable[[], nn.Module]:
        load_net: Any = source_of(subject, cfg.runs_dir, device, block_by_block)

        def load() -> nn.Module:
            net = load_net()
            if subject.label not in losses:
                losses[subject.label] = loss_of(net, tokens)
                widths[subject.label] = _width(net, sites, tokens)
            return net

        return load

    # Smaller before larger: the sites of the first model are matched with those of the second.
    ordered = sorted(subjects, key=_parameters)
    loaders = {subject.label: loader(subject) for subject in ordered}
    couples = list(combinations_with_replacement(loaders, 2))
    tables = {}
    for name, control in controls.items():
        report = (lambda message, name=name: on_progress(f"{message} ({name})")) if len(controls) > 1 else on_progress
        tables[name] = compare_many(
            loaders, tokens, sites, measures, control=control, couples=couples, on_progress=report, **options
        ).arrow
    return tables, [_model(subject, sites, widths[subject.label], losses[subject.label]) for subject in ordered]


def _parameters(subject: Subject) -> int:
    return sum(weight.numel() for weight in subject.source.parameters())  # pyright: ignore


def _width(net: nn.Module, sites: Any, tokens: Tensor) -> int:
    """Return the width of the last site."""
    last = sites_of(net, sites)[-1]
    with capture(net, last) as acts:
        net(tokens[:1].to(device_of(net)))
    return acts[last].shape[-1]


def _model(subject: Subject, sites: Any, width: int, loss: tuple[float, float]) -> SizedModel:
    """Return the model with its size; family and data order come from its run's config if it lies in a run folder."""
    folder = Path(subject.provenance["path"]).parent.parent
    config = config_of(folder)
    family, data_order = type(subject.source).__name__, None
    if config:
        family = entry(config, "model.family", str, folder) or family
        data_order = entry(config, "data_seed", int, folder)
    depth = len(sites_of(subject.source, sites))  # pyright: ignore
    return SizedModel(subject.label, family, width, depth, data_order, *loss)


def _with_control(table: pa.Table, control: str) -> pa.Table:
    """Return the table with the name of the control in front."""
    return table.add_column(0, "control", pa.array([control] * table.num_rows, pa.string()))


def _check(subjects: Sequence[Subject]) -> None:
    """Check that all subjects are models rather than saved activations."""
    saved = [subject.label for subject in subjects if subject.reference is None]
    if saved:
        raise ValueError(
            f"models: {', '.join(saved)} are saved activations, and this study needs models to measure their losses; "
            "type study=compare for saved activations"
        )


def _next_command(cfg: DictConfig) -> str | None:
    if cfg.models:
        return with_all_measures(cfg, "scaling", cfg.models)
    pythia = "python analyze.py study=scaling models=pythia sizes=[70m,160m,410m,1b] data=pile10k name=pythia"
    return larger(cfg, "scaling") or pythia
