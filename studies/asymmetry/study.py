"""The study `asymmetry`: does stitching one family into another cost more than the other way around?

It repeats finding (i) of arXiv 2310.14993 and adds the models' own losses, self-stitches, seeds, siblings separate from
independent pairs, several checkpoints, and two further fits beside the paper's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from omegaconf import DictConfig
from rich.console import Console

import settings
from dissimilarity.inference.coverage import SEEDS
from launch.machine import training_device
from models import references
from studies.asymmetry.capacity import capacity
from studies.asymmetry.figures import figures
from studies.asymmetry.grid import ROLES, common_steps, sweeps_of_size, text_of_run
from studies.asymmetry.measured import barrier_records, identity_records, main_records
from studies.asymmetry.numbers import Primary, Record, all_claims, primary_claim, with_self
from studies.asymmetry.published import load_published
from studies.asymmetry.stitches import HeldOutText, ModelAtStep, Stitches, load
from studies.asymmetry.text import summary, terminal_tables
from studies.common.next_command import larger, models_override
from studies.common.results import Results, claim
from studies.common.trainings import Sweep, size_of, train_missing


@dataclass(frozen=True)
class Source:
    """Where the models come from.

    Attributes:
        published: URIs of published models; empty if they are runs.
        runs_dir: folder of the runs.
        names: names of the runs by role, `main` first.
        sweeps: trainings that the runs need.
    """

    published: list[str]
    runs_dir: Path
    names: dict[str, list[str]] = field(default_factory=dict)
    sweeps: list[Sweep] = field(default_factory=list)


@dataclass(frozen=True)
class Models:
    """The loaded models.

    Attributes:
        main: for each run of the two families, the model at each step.
        by_role: the other models, at their end.
        steps: the steps of `main`.
        text: held-out text.
    """

    main: dict[str, list[ModelAtStep]]
    by_role: dict[str, list[ModelAtStep]]
    steps: list[int]
    text: HeldOutText

    @property
    def at_end(self) -> list[ModelAtStep]:
        """Return the main models at their end."""
        return [steps[-1] for steps in self.main.values()]


def asymmetry(
    cfg: DictConfig,
    families: Sequence[str],
    others: Sequence[str],
    checkpoints: int,
    fit_sequences: int,
    sequences: int,
    length: int,
    stitch_steps: int | None,
    primary_models: str,
    primary_measure: str,
    primary_layer: str,
    sizes: Mapping[str, Any],
) -> Results:
    """Train what is missing, stitch in both directions, and answer.

    Args:
        cfg: config of analyze.py; `models` lists finished runs or published models (`tl`, tl:NAME, tl:FOLDER, on the
            text of `data`). If it is empty, `size` says what is trained.
        families: the two families: first -> second is compared with second -> first.
        others: further families for the capacity conjecture.
        checkpoints: number of steps of training at which direct stitches are measured.
        fit_sequences: number of held-out sequences on which maps are fitted.
        sequences: number of held-out sequences on which penalties are measured.
        length: tokens per sequence.
        stitch_steps: maximum steps of a trained stitch, and steps of the paper's recipe; None for the size's.
        primary_models: `independent` or `sibling`: the pairs of the primary claim.
        primary_measure: fit and reading of the primary claim, such as `task_excess`.
        primary_layer: a site, or `all` for the mean over layers.
        sizes: by size: `widths`, `depths`, `seeds`, width of the `narrow` second family, `stitch_steps`, and overrides
            of the trainings (`train`).

    Raises:
        ValueError: The models cannot be compared, or a training failed.
    """
    size = size_of(cfg, sizes)
    steps = stitch_steps or size["stitch_steps"]
    folder = Path(cfg.results_dir) / settings.study_name(cfg)
    source = _source(cfg, size, families, others)
    claim(folder, cfg)
    if source.sweeps:
        train_missing(source.sweeps, source.runs_dir)
    terminal = Console(stderr=True, highlight=False)
    text_size = {"fit": fit_sequences, "held_out": sequences, "length": length}
    with terminal.status("loading the models"):
        models = _load(cfg, source, checkpoints, text_size)
    _check(models.main, families)
    fit, reading = primary_measure.split("_", 1)
    primary = Primary(primary_models, fit, reading, primary_layer)
    findings = _measure(models, families, primary, Stitches(folder / "rows.jsonl", models.text, steps), terminal)
    notes = _notes(models, source, text_size, steps, findings)
    return Results(
        table=_table(findings["records"]),
        summary=summary(findings, notes),
        figures=figures(findings),
        provenance=notes,
        shown=terminal_tables(findings),
        next_command=_next_command(cfg, source),
        coverage=SEEDS,
    )


def _notes(
    models: Models, source: Source, text_size: Mapping[str, int], stitch_steps: int, findings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what provenance.json says of the measurements."""
    loaded = [*models.at_end, *(model for members in models.by_role.values() for model in members)]
    return {
        "models": {model.run: model.sha256 for model in loaded},
        "steps": models.steps,
        "published": source.published,
        "text": {**text_size, "sha256": models.text.sha256},
        "stitch_steps": stitch_steps,
        "barriers": findings["barriers"],
        "capacity": findings["capacity"],
    }


def _source(cfg: DictConfig, size: Mapping[str, Any], families: Sequence[str], others: Sequence[str]) -> Source:
    """Return where the models come from, and check what can be checked before they are loaded."""
    if published := _published(cfg):
        return Source(published, Path(cfg.runs_dir))
    if cfg.models:
        return _runs_given(cfg)
    sweeps = sweeps_of_size(size, families, others)
    names = {role: sweep.names for role, sweep in sweeps.items()}
    return Source([], Path(cfg.runs_dir) / f"asymmetry-{cfg.size}", names, list(sweeps.values()))


def _load(cfg: DictConfig, source: Source, checkpoints: int, text_size: Mapping[str, int]) -> Models:
    device: torch.device = training_device(cfg.device)
    if source.published:
        main, text = load_published(cfg, source.published, device, **text_size)
        return Models(main, {role: [] for role in ROLES}, [0], text)
    runs_dir, names = source.runs_dir, source.names
    steps = common_steps(runs_dir, names["main"], checkpoints)
    main = {name: load(runs_dir, name, steps, device) for name in names["main"]}
    by_role = {role: [load(runs_dir, name, None, device)[0] for name in names.get(role, [])] for role in ROLES}
    return Models(main, by_role, steps, text_of_run(runs_dir / names["main"][0], cfg.cache_dir, **text_size))


def _measure(
    models: Models, families: Sequence[str], primary: Primary, stitches: Stitches, terminal: Console
) -> dict[str, Any]:
    """Return everything that the summary and the figures show."""
    records = main_records(list(models.main.values()), families, stitches, terminal)
    records += identity_records(models.at_end, stitches, terminal)
    others = models.by_role["others"] + models.by_role["narrow"]
    by_family = capacity(models.at_end, others, families[1], stitches, models.text, terminal)
    records = with_self(records + by_family.records)
    return {
        "records": records,
        "capacity": by_family.models,
        "barriers": barrier_records(models.at_end, models.by_role["orders"], models.text, terminal),
        "families": list(families),
        "claims": all_claims(records, families),
        "primary": primary,
        "primary_claim": primary_claim(records, families, primary),
    }


def _table(records: Sequence[Record]) -> pa.Table:
    columns = dict.fromkeys(key for record in records for key in record)
    return pa.table({column: [record.get(column) for record in records] for column in columns})


def _published(cfg: DictConfig) -> list[str]:
    """Return the toy models of TransformerLens that `models` lists; none if it lists other models too."""
    uris = list(dict.fromkeys(cfg.models))
    if not uris or not all(uri.startswith("tl:") for uri in uris):
        return []
    if not cfg.data:
        raise ValueError("published models come without text: type data=mix, or data=c4_code with network access")
    for uri in uris:
        references.resolve(uri)
    return uris


def _runs_given(cfg: DictConfig) -> Source:
    """Return the folder and the names of the runs that `models` lists."""
    parents = {str(Path(uri).parent) for uri in cfg.models}
    not_runs = [uri for uri in cfg.models if "@" in uri or uri.endswith((".ckpt", ".safetensors")) or ":" in uri]
    if not_runs:
        raise ValueError(
            f"models: {', '.join(not_runs)}: this study takes whole runs, runs/NAME, because it reads their "
            "checkpoints, or only toy models of TransformerLens: models=tl or models=[tl:solu-3l,tl:gelu-3l,...]"
        )
    if len(parents) > 1:
        raise ValueError(f"models: expected runs of one folder, found {', '.join(sorted(parents))}")
    (parent,) = parents
    runs_dir = (
        Path(cfg.runs_dir) / parent.removeprefix("runs").lstrip("/") if parent.startswith("runs") else Path(parent)
    )
    names = [Path(uri).name for uri in cfg.models]
    for name in names:
        if not (runs_dir / name / "config.yaml").is_file():
            raise ValueError(f"models: there is no run {runs_dir / name}")
    return Source([], runs_dir, {"main": names})


def _check(main: Mapping[str, Sequence[ModelAtStep]], families: Sequence[str]) -> None:
    """Check that each family has a model."""
    present = {models[0].family for models in main.values()}
    if not set(families) <= present:
        raise ValueError(
            f"expected models of the families {' and '.join(families)}, found {', '.join(sorted(present))}; "
            "type study.families=[...] to compare others"
        )


def _next_command(cfg: DictConfig, source: Source) -> str | None:
    if source.published:
        return None
    if cfg.models:
        return f"python analyze.py study=compare {models_override(cfg.models)} measures=all"
    return larger(cfg, "asymmetry")
