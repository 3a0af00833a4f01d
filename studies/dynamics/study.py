"""The study `dynamics`: when does each layer of a run reach its final form, and are the lower layers first?

Raghu et al. (2017, section 4.1) saw layers settle bottom-up by SVCCA; here with a floor of another seed, a null and a
test of the order.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from studies.common.results import Results

if TYPE_CHECKING:
    from torch import nn


def dynamics(
    cfg: DictConfig,
    family: str,
    checkpoints: int | None,
    sequences: int,
    length: int,
    groups: int,
    sizes: Mapping[str, Any],
) -> Results:
    """Trains what is missing, compares every two checkpoints layer by layer, and answers.

    Args:
        cfg: the config of analyze.py; `models` takes one run or two that exist, else `size` says what is trained.
        family: of the runs that are trained.
        checkpoints: most checkpoints of a run; None for every one.
        sequences, length: the held-out text, where probe.sequences and probe.length say nothing.
        groups: jackknife groups of sequences.
        sizes: `width`, `depth`, `seeds` and further overrides of `train`, by size.

    Raises:
        ValueError: an unknown size, other than one run or two, runs of different depth, a failed training.
    """
    if checkpoints is not None and checkpoints < 3:
        raise ValueError(f"study.checkpoints={checkpoints}: expected 3 or more, or null")
    uris = list(cfg.models)
    if not uris:
        from studies.common.trainings import Sweep, size_of, trained

        wanted = size_of(cfg, sizes)
        seeds, more = tuple(wanted["seeds"])[:2], tuple(wanted["train"])
        uris = trained(cfg, "dynamics", [Sweep((family,), (wanted["width"],), (wanted["depth"],), seeds, more=more)])
    if len(uris) not in (1, 2) or len(set(uris)) < len(uris):
        raise ValueError(
            f"models=[{','.join(uris)}]: expected one run, or two to lay beside each other, such as models=[runs/a] or "
            "models=[runs/a,runs/b]"
        )
    steps = {uri: _steps(uri, cfg.runs_dir, checkpoints) for uri in uris}

    from rich.console import Console

    from dissimilarity.comparison.compare_many import compare_many
    from dissimilarity.comparison.saved import sites_of
    from dissimilarity.probe.outliers import control_of
    from launch.machine import device_of
    from models import references
    from studies.common.held_out import loss_of
    from studies.common.inputs import look_at, measures_of, probe_for, short_labels, with_probe
    from studies.dynamics.figures import figures
    from studies.dynamics.numbers import findings
    from studies.dynamics.text import summary, terminal_tables

    terminal = Console(stderr=True, highlight=False)
    sites = cfg.sites if cfg.sites is None or isinstance(cfg.sites, str) else list(cfg.sites)
    home, losses, hashes = device_of(cfg.device), {}, {}
    with terminal.status("loading the runs") as status:
        subjects = look_at(uris, cfg.runs_dir, status.update)
        there = [sites_of(subject.source, sites) for subject in subjects]  # pyright: ignore
        if len({tuple(each) for each in there}) > 1:
            raise ValueError(
                f"models=[{','.join(uris)}]: expected runs of the same layers, found {len(there[0])} and "
                f"{len(there[1])}; type study=scaling for models of different depth"
            )
        tokens, probe = probe_for(with_probe(cfg, sequences, length), subjects)
        assert tokens is not None

        def loader(uri: str, label: str) -> "Callable[[], nn.Module]":
            def load() -> "nn.Module":
                reference = references.load(uri, cfg.runs_dir)
                net = reference.model.to(home)
                hashes[label], losses[label] = reference.provenance["sha256"], loss_of(net, tokens)[0]
                return net

            return load

        named = dict(zip(uris, short_labels(uris), strict=True))
        labels = {named[uri]: [(f"{named[uri]}@{step}", step) for step in steps[uri]] for uri in uris}
        loaders = {
            f"{named[uri]}@{step}": loader(f"{uri}@{step}", f"{named[uri]}@{step}")
            for uri in uris
            for step in steps[uri]
        }
        each = [[label for label, _ in of] for of in labels.values()]
        couples = [couple for of in each for couple in combinations(of, 2)]
        couples += [(a, b) for a in each[0] for b in each[1]] if len(each) > 1 else []
        table = compare_many(
            loaders,
            tokens,
            sites,
            measures_of(cfg),
            "matched",
            n_units=groups,
            control=control_of(cfg.control),
            couples=couples,
            on_progress=status.update,
        )
    found = findings(table, labels)
    curves = {run: [losses[label] for label, _ in of] for run, of in labels.items()}
    notes = {"models": hashes, "runs": {named[uri]: uri for uri in uris}, "probe": probe, "losses": curves}
    return Results(
        table=table,
        summary=summary(found, notes),
        figures=figures(found, curves),
        provenance=notes,
        shown=terminal_tables(found),
        next_command=_next(cfg, uris),
    )


def _steps(uri: str, runs_dir: str, most: int | None) -> list[int]:
    """The steps at which a run was saved, at most so many, the first and the last among them."""
    from dissimilarity.figures.style import spread
    from models.references import steps_of

    name = uri.removeprefix("runs/")
    folder = Path(runs_dir) / name if uri.startswith("runs/") else Path(uri)
    if "@" in uri or uri.endswith(".ckpt") or ":" in uri:
        raise ValueError(f"models: {uri}: this study takes whole runs, runs/NAME, for it reads their checkpoints")
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"models: there is no run {folder.absolute()}")
    steps = sorted(steps_of(folder))
    if len(steps) < 3:
        raise ValueError(
            f"models: {uri} has {len(steps)} checkpoints, and 3 are needed: train it with schedule.every=... lower, or "
            "with checkpoints.keep=every or all"
        )
    return steps if most is None else spread(steps, most)


def _next(cfg: DictConfig, uris: list[str]) -> str:
    if not cfg.models and cfg.size == "small":
        return "python analyze.py study=dynamics size=medium name=dynamics_medium"
    return f"python analyze.py study=dynamics models=[{','.join(uris)}] sites=blocks.*.mlp_out name=dynamics_mlp"
