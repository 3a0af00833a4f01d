"""The study `asymmetry`: is stitching one family into another dearer than the other way round?

Finding (i) of arXiv 2310.14993, with what it lacks: the models' own losses, self-stitches, seeds, siblings and
independent pairs apart, several points of training, two ways to fit, and the paper's own way beside them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

import settings
from studies.common.results import Results, claim

if TYPE_CHECKING:
    from torch import Tensor

    from studies.asymmetry.stitches import Model, Stitches, Text
    from studies.common.trainings import Sweep


def asymmetry(
    cfg: DictConfig,
    families: Sequence[str],
    others: Sequence[str],
    checkpoints: int,
    fit_sequences: int,
    sequences: int,
    length: int,
    stitch_steps: int | None,
    sizes: Mapping[str, Any],
) -> Results:
    """Trains what is missing, stitches, and answers.

    Args:
        cfg: the config of analyze.py; `models` takes runs that exist, or published models (`tl`, or tl:NAME and
            tl:FOLDER, on the text of `data`); else `size` says what is trained.
        families: the two that are compared: first -> second against second -> first.
        others: families whose capacity is compared besides.
        checkpoints: points of training at which direct stitches are measured.
        fit_sequences, sequences, length: the held-out text: to fit on, to measure on, tokens a sequence.
        stitch_steps: most steps of a trained stitch, and those of the paper's recipe; None for the size's.
        sizes: `widths`, `depths`, `seeds`, width of the `narrow` second family, `stitch_steps`, and more overrides of
            `train`, by size.

    Raises:
        ValueError: an unknown size, fewer than two families, models that cannot be compared, a failed training.
    """
    from studies.common.trainings import size_of, train_missing

    if len(families) != 2 or checkpoints < 1:
        raise ValueError(
            f"expected two study.families and study.checkpoints >= 1, found {list(families)} and {checkpoints}"
        )
    size = size_of(cfg, sizes)
    steps_each = stitch_steps or size["stitch_steps"]
    folder = Path(cfg.results_dir) / settings.study_name(cfg)
    sweeps: dict[str, Sweep] = {}
    published = _published(cfg)
    runs_dir, names = Path(cfg.runs_dir), {}
    if cfg.models and not published:
        runs_dir, names = _given(cfg)
    elif not published:
        runs_dir = Path(cfg.runs_dir) / f"asymmetry-{cfg.size}"
        sweeps = wanted(size, families, others)
        names = {role: sweep.names for role, sweep in sweeps.items()}
    claim(folder, cfg)
    if sweeps:
        train_missing(list(sweeps.values()), runs_dir)

    import pyarrow as pa
    from rich.console import Console

    from launch.machine import device_of
    from studies.asymmetry.capacity import capacity
    from studies.asymmetry.figures import figures
    from studies.asymmetry.numbers import all_claims, with_self
    from studies.asymmetry.published import load_published
    from studies.asymmetry.stitches import Stitches, load
    from studies.asymmetry.text import summary, terminal_tables

    device = device_of(cfg.device)
    terminal = Console(stderr=True, highlight=False)
    wanted_text = {"fit": fit_sequences, "held_out": sequences, "length": length}
    rest: dict[str, list[Model]] = dict.fromkeys(ROLES, [])
    with terminal.status("loading the models"):
        if published:
            steps = [0]
            main, text = load_published(cfg, published, device, **wanted_text)
        else:
            steps = points(runs_dir, names["main"], checkpoints)
            main = {name: load(runs_dir, name, steps, device) for name in names["main"]}
            rest = {role: [load(runs_dir, name, None, device)[0] for name in names.get(role, [])] for role in ROLES}
            text = text_of(runs_dir / names["main"][0], cfg.cache_dir, **wanted_text)
    _check(main, families)
    stitches = Stitches(folder / "rows.jsonl", text, steps_each)
    rows = main_rows(list(main.values()), families, stitches, terminal)
    rows += partner_rows([models[-1] for models in main.values()], stitches, terminal)
    ends = [models[-1] for models in main.values()]
    more = capacity(ends, rest["others"] + rest["narrow"], families[1], stitches, text, terminal)
    barriers = barrier_rows(ends, rest["orders"], text, terminal)
    rows = with_self(rows + more.rows)
    found = {"rows": rows, "capacity": more.models, "barriers": barriers, "families": list(families)}
    found["claims"] = all_claims(rows, families)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    notes = {
        "models": {m.run: m.sha256 for m in [*ends, *(m for models in rest.values() for m in models)]},
        "steps": steps,
        "published": published,
        "text": {**wanted_text, "sha256": text.sha256},
        "stitch_steps": steps_each,
        "barriers": barriers,
        "capacity": more.models,
    }
    return Results(
        table=pa.table({column: [row.get(column) for row in rows] for column in columns}),
        summary=summary(found, notes),
        figures=figures(found),
        provenance=notes,
        shown=terminal_tables(found),
        next_command="python analyze.py study=asymmetry size=medium name=asymmetry_medium",
    )


ROLES = ("others", "narrow", "orders")


def wanted(size: Mapping[str, Any], families: Sequence[str], others: Sequence[str]) -> "dict[str, Sweep]":
    """The trainings of a size: the two families; further ones; a narrower second family; siblings in another order."""
    from studies.common.trainings import Sweep

    widths, depths, seeds = (tuple(size[key]) for key in ("widths", "depths", "seeds"))
    deepest, widest, more = depths[-1:], widths[-1:], tuple(size["train"])
    return {
        "main": Sweep(tuple(families), widths, depths, seeds, more=more),
        "others": Sweep(tuple(others), widest, deepest, seeds, more=more),
        "narrow": Sweep((families[1],), (size["narrow"],), deepest, seeds, more=more),
        "orders": Sweep(tuple(families), widest, deepest, seeds[:1], order=seeds[1], more=more),
    }


def points(runs_dir: Path, names: Sequence[str], count: int) -> list[int]:
    """Steps of which every run has a checkpoint: the last one, and before it about each half of the one after."""
    from models.references import steps_of

    common = set.intersection(*(set(steps_of(runs_dir / name)) for name in names))
    chosen = [max(common)]
    while len(chosen) < count:
        earlier = [step for step in common if 0 < step <= chosen[0] / 2]
        if not earlier:
            break
        chosen.insert(0, max(earlier))
    return chosen


def text_of(folder: Path, cache_dir: str, fit: int, held_out: int, length: int) -> "Text":
    """Held-out text of a run, in its tokens: of every so many sequences one to measure on, the others to fit on."""
    from data.rebuilt import rebuilt
    from launch.cli.quiet import silence
    from studies.common.runs import config_of

    silence()
    data = rebuilt(config_of(folder).get("data"), folder / "config.yaml", cache_dir)
    return divided(data.probe(fit + held_out, length, "val"), held_out, data.bytes_per_token)


def divided(tokens: "Tensor", held_out: int, bytes_per_token: float) -> "Text":
    """Sequences divided into those that maps are fitted on, and `held_out` at even distances that are measured on."""
    import torch

    from data.probe import probe_hash
    from studies.asymmetry.stitches import Text

    place = torch.arange(len(tokens)) * held_out // len(tokens)
    measured = torch.cat([torch.tensor([True]), place[1:] != place[:-1]])
    return Text(tokens[~measured], tokens[measured], bytes_per_token, probe_hash(tokens))


def main_rows(
    models: "Sequence[Sequence[Model]]", families: Sequence[str], stitches: "Stitches", terminal: Any
) -> list[dict[str, Any]]:
    """All stitches between models of equal width and depth: direct at every point of training, trained at its end."""
    from studies.asymmetry.stitches import kinship

    jobs = []
    for fronts in models:
        for backs in models:
            if (fronts[0].width, fronts[0].depth) == (backs[0].width, backs[0].depth):
                jobs += [(front, back) for front, back in zip(fronts, backs, strict=True)]
    rows: list[dict[str, Any]] = []
    starts: dict[str, Any] = {}
    seeds = sorted({model.init_seed for model in (each[0] for each in models)})
    for number, (front, back) in enumerate(jobs, 1):
        with terminal.status(f"stitches of {front.run} into {back.run}, step {back.step} ({number} of {len(jobs)})"):
            rows += stitches.direct(front, back, "affine", [(site, site) for site in back.sites])
            if not back.last or not _is_trained(front, back, families, seeds):
                continue
            for site in back.sites[:-1]:
                rows += stitches.trained(front, back, "task", site)
                rows += stitches.trained(front, back, "paper", site)
                if kinship(front, back) != "self" and front.family != back.family:
                    if front.run not in starts:
                        starts[front.run] = front.start()
                    rows += stitches.nulls(front, back, starts[front.run], site)
    return rows


def _is_trained(front: "Model", back: "Model", families: Sequence[str], seeds: list[int]) -> bool:
    """Whether stitches of a pair are trained: each model with itself, its sibling and one independent model of either
    family, so that every model is in as many pairs as any other, and each pair in both directions or in neither."""
    across = front.family == families[1] and back.family == families[0]
    first, second = (back, front) if across else (front, back)
    return (seeds.index(first.init_seed) - seeds.index(second.init_seed)) % len(seeds) in (0, 1)


def partner_rows(models: "Sequence[Model]", stitches: "Stitches", terminal: Any) -> list[dict[str, Any]]:
    """Identity stitches: across the layers of one model, and between siblings."""
    from studies.asymmetry.stitches import kinship

    rows: list[dict[str, Any]] = []
    with terminal.status("identity stitches"):
        for model in models:
            rows += stitches.direct(model, model, "identity", [(a, b) for a in model.sites for b in model.sites])
            for other in models:
                if kinship(model, other) == "sibling" and (model.width, model.depth) == (other.width, other.depth):
                    rows += stitches.direct(model, other, "identity", [(site, site) for site in model.sites])
    return rows


def barrier_rows(
    models: "Sequence[Model]", orders: "Sequence[Model]", text: "Text", terminal: Any
) -> list[dict[str, Any]]:
    """Loss barriers on the line between models of one family: siblings in another order of text, and independent."""
    from dissimilarity.stitching import barrier
    from studies.asymmetry.stitches import kinship

    rows = []
    with terminal.status("barriers"):
        for sibling in orders:
            alike = [
                m for m in models if (m.family, m.width, m.depth) == (sibling.family, sibling.width, sibling.depth)
            ]
            for model in alike:
                found = barrier(model.net, sibling.net, text.held_out)
                names = {"a": model.run, "b": sibling.run, "family": model.family, "kinship": kinship(model, sibling)}
                rows.append({**names, "barrier": found.value, "stderr": found.stderr, "at": found.at})
    return rows


def _published(cfg: DictConfig) -> list[str]:
    """The toy models of TransformerLens that `models` lists, all of them found; empty where it lists others too."""
    uris = list(dict.fromkeys(cfg.models))
    if not uris or not all(uri.startswith("tl:") for uri in uris):
        return []
    if not cfg.data:
        raise ValueError("models that others trained come without text: type data=mix, or data=c4_code with a network")
    from models import references

    for uri in uris:
        references.resolve(uri)
    return uris


def _given(cfg: DictConfig) -> tuple[Path, dict[str, list[str]]]:
    """The folder and the names of the runs that `models` lists."""
    folders = {str(Path(uri).parent) for uri in cfg.models}
    strangers = [uri for uri in cfg.models if "@" in uri or uri.endswith((".ckpt", ".safetensors")) or ":" in uri]
    if strangers:
        raise ValueError(
            f"models: {', '.join(strangers)}: this study takes whole runs, runs/NAME, for it reads their checkpoints, "
            "or toy models of TransformerLens alone: models=tl or models=[tl:solu-3l,tl:gelu-3l,...]"
        )
    if len(folders) > 1:
        raise ValueError(f"models: expected runs of one folder, found {', '.join(sorted(folders))}")
    (parent,) = folders
    runs_dir = (
        Path(cfg.runs_dir) / parent.removeprefix("runs").lstrip("/") if parent.startswith("runs") else Path(parent)
    )
    names = [Path(uri).name for uri in cfg.models]
    for name in names:
        if not (runs_dir / name / "config.yaml").is_file():
            raise ValueError(f"models: there is no run {runs_dir / name}")
    return runs_dir, {"main": names}


def _check(main: "Mapping[str, Sequence[Model]]", families: Sequence[str]) -> None:
    """At least one model of each family."""
    there = {models[0].family for models in main.values()}
    if not set(families) <= there:
        raise ValueError(
            f"expected models of the families {' and '.join(families)}, found {', '.join(sorted(there))}; "
            "study.families=[...] names others"
        )
