"""The study `scaling`: how differently do models of different width and depth represent text, and where?

Finding (iii) of arXiv 2310.14993, with what it lacks: width alone and depth alone, several seeds of each size and
with them a floor, the models' losses, a null, outlier control, and blocks of layers that the data show.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from studies.common.results import Results

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor, nn

    from dissimilarity.measures.base.measure import Measure
    from dissimilarity.probe.outliers import Control
    from studies.common.inputs import Subject
    from studies.scaling.numbers import Model


def scaling(
    cfg: DictConfig,
    family: str,
    sequences: int,
    length: int,
    groups: int,
    controlled: Mapping[str, Any] | None,
    sizes: Mapping[str, Any],
) -> Results:
    """Trains what is missing, compares every two models at every two layers, and answers.

    Args:
        cfg: the config of analyze.py; `models` takes models that exist, else `size` says what is trained.
        family: of the models that are trained.
        sequences, length: the held-out text, where probe.sequences and probe.length say nothing.
        groups: jackknife groups of sequences.
        controlled: the outlier control of a second comparison; None for none.
        sizes: `shapes` (width and depth), `seeds` and further overrides of `train`, by size.

    Raises:
        ValueError: an unknown size, fewer than two models, models that cannot be compared, a failed training.
    """
    uris = list(cfg.models)
    if not uris:
        from studies.common.trainings import Sweep, size_of, trained

        wanted = size_of(cfg, sizes)
        seeds, more = tuple(wanted["seeds"]), tuple(wanted["train"])
        sweeps = [Sweep((family,), (width,), (depth,), seeds, more=more) for width, depth in wanted["shapes"]]
        uris = trained(cfg, "scaling", sweeps)
    if len(uris) < 2:
        raise ValueError(
            f"models=[{','.join(uris)}]: expected two models or more of different size, found {len(uris)}; "
            "leave models out to train some"
        )

    import pyarrow as pa
    from rich.console import Console

    from dissimilarity.probe.outliers import control_of
    from studies.common.inputs import look_at, measures_of, probe_for, with_probe
    from studies.scaling.figures import figures
    from studies.scaling.numbers import findings
    from studies.scaling.text import summary, terminal_tables

    terminal = Console(stderr=True, highlight=False)
    with terminal.status("loading the models") as status:
        subjects = look_at(uris, cfg.runs_dir, status.update)
        _check(subjects)
        tokens, probe = probe_for(with_probe(cfg, sequences, length), subjects)
        assert tokens is not None
        controls = {"as it is": control_of(cfg.control)}
        if controlled is not None:
            controls["outlier control"] = control_of(controlled)
        tables, models = compared(cfg, subjects, tokens, controls, measures_of(cfg), groups, status.update)
    table = pa.concat_tables([_with_control(each, control) for control, each in tables.items()])
    found = findings(table, models)
    notes = {
        "models": {subject.label: subject.provenance for subject in subjects},
        "probe": probe,
        "controls": {name: vars(control) for name, control in controls.items()},
        "losses": {model.label: model.loss for model in models},
    }
    return Results(
        table=table,
        summary=summary(found, notes),
        figures=figures(found, tables["as it is"]),
        provenance=notes,
        shown=terminal_tables(found),
        next_command=_next(cfg),
    )


def compared(
    cfg: DictConfig,
    subjects: "Sequence[Subject]",
    tokens: "Tensor",
    controls: "Mapping[str, Control]",
    measures: "Sequence[Measure]",
    groups: int,
    tell: Callable[[str], object],
) -> "tuple[dict[str, pa.Table], list[Model]]":
    """The table of every two models under each control, and the models, the smaller ones first.

    One model is in memory at a time.
    """
    from dissimilarity.comparison.compare_many import compare_many
    from dissimilarity.comparison.saved import sites_of
    from launch.machine import device_of
    from studies.common.held_out import loss_of
    from studies.common.inputs import loader
    from studies.scaling.numbers import Model

    home, losses, widths = device_of(cfg.device), {}, {}
    sites = cfg.sites if cfg.sites is None or isinstance(cfg.sites, str) else list(cfg.sites)

    def measured(subject: "Subject") -> "Callable[[], nn.Module]":
        again: Any = loader(subject, cfg.runs_dir, home)

        def load() -> "nn.Module":
            net = again()
            if subject.label not in losses:
                losses[subject.label] = loss_of(net, tokens)
                widths[subject.label] = _width(net, sites, tokens)
            return net

        return load

    # Smaller before larger, as far as is known beforehand: sites of the first are matched with those of the second.
    ordered = sorted(subjects, key=lambda subject: sum(p.numel() for p in subject.source.parameters()))  # pyright: ignore
    loaders = {subject.label: measured(subject) for subject in ordered}
    couples = list(combinations_with_replacement(loaders, 2))
    tables = {}
    for name, control in controls.items():
        says = (lambda doing, name=name: tell(f"{doing} ({name})")) if len(controls) > 1 else tell
        tables[name] = compare_many(
            loaders, tokens, sites, measures, n_units=groups, control=control, couples=couples, on_progress=says
        )
    models = []
    for subject in ordered:
        settings_of_run = _run_config(subject)
        models.append(
            Model(
                label=subject.label,
                family=settings_of_run.get("family") or type(subject.source).__name__,
                width=widths[subject.label],
                depth=len(sites_of(subject.source, sites)),  # pyright: ignore
                order=settings_of_run.get("order"),
                loss=losses[subject.label][0],
                stderr=losses[subject.label][1],
            )
        )
    return tables, models


def _width(net: "nn.Module", sites: Any, tokens: "Tensor") -> int:
    """Width of the last of the sites."""
    from dissimilarity.capture.hooks import capture
    from dissimilarity.comparison.saved import sites_of
    from dissimilarity.stitching.penalty import device_of

    last = sites_of(net, sites)[-1]
    with capture(net, last) as acts:
        net(tokens[:1].to(device_of(net)))
    return acts[last].shape[-1]


def _run_config(subject: "Subject") -> dict[str, Any]:
    """Family and order of the text of a model that lies in the folder of a run; nothing of others."""
    from studies.common.runs import config_of, entry

    folder = Path(subject.provenance["path"]).parent.parent
    config = config_of(folder)
    if not config:
        return {}
    return {"family": entry(config, "model.family", str, folder), "order": entry(config, "data_seed", int, folder)}


def _with_control(table: "pa.Table", control: str) -> "pa.Table":
    """The table with the name of the control in front."""
    import pyarrow as pa

    return table.add_column(0, "control", pa.array([control] * table.num_rows, pa.string()))


def _check(subjects: "Sequence[Subject]") -> None:
    """Models, not activations: they are run on text, and their losses are wanted."""
    saved = [subject.label for subject in subjects if subject.reference is None]
    if saved:
        raise ValueError(
            f"models: {', '.join(saved)} are saved activations, and this study reads losses off its models; "
            "type study=compare for them"
        )


def _next(cfg: DictConfig) -> str:
    if cfg.models:
        return "python analyze.py study=scaling measures=all name=scaling_all models=..."
    bigger = {"small": "medium", "medium": "paper"}.get(cfg.size)
    if bigger:
        return f"python analyze.py study=scaling size={bigger} name=scaling_{bigger}"
    return "python analyze.py study=scaling models=pythia sizes=[70m,160m,410m,1b] data=pile10k name=pythia"
