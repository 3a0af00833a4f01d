"""The summaries that a training prints at its start and at its end."""

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.text import Text

import settings
from dissimilarity.cli.fitted_table import UNLIMITED
from dissimilarity.inference.coverage import FIRST_TICK, REFERENCES
from launch.run.distances import final_table
from launch.run.folder import read_json

terminal = Console(highlight=False)
INDENT = 13
"""Characters before a fact: its name, and the space around that."""
WHOLE = {"page", "figures", "curves", "metrics", "W&B", "next"}
"""Facts that can be typed or clicked."""

SITES_SHOWN = 6


def show_start(folder: Path, cfg: DictConfig, data: Any, module: Any, notes: dict[str, Any], continued: bool) -> None:
    """Print what is about to be trained, one fact per line.

    Args:
        folder: The run folder.
        cfg: The config.
        data: The LightningDataModule of the run.
        module: The RecipeModule of the run.
        notes: The content of provenance.json.
        continued: Whether the run continues from a checkpoint.
    """
    from launch.machine import device_name, training_device
    from launch.run.references import compares, with_step

    precision, compiled, millions = notes["precision"], notes["compile"], module.n_parameters / 1e6
    rows = {
        "model": f"{cfg.model.family}, width {cfg.width}, depth {cfg.depth}, {millions:.2f} M parameters",
        **({} if cfg.init_from is None else {"init from": with_step(cfg.init_from, notes["init_from"])}),
        "data": ", ".join([settings.data_name(cfg), *_amounts(cfg, data)]),
        **_cut(cfg, notes["data"].get("truncated", {})),
        "device": device_name(training_device(cfg.trainer.accelerator)),
        "precision": f"{precision['chosen']} ({precision['why']})",
        "compile": f"{'yes' if compiled['chosen'] else 'no'} ({compiled['why']})",
    }
    if compares(cfg):
        references = read_json(folder / "provenance.json").get("references", {})
        rows["against"] = ", ".join(with_step(uri, references.get(uri, {})) for uri in cfg.references)
        aligned = [_aligned(uri, origin["alignment"]) for uri, origin in references.items() if "alignment" in origin]
        if aligned:
            rows["aligned"] = "\n".join(aligned)
    terminal.print(f"[bold]{escape(str(folder))}[/bold]{' (continued)' if continued else ''}", soft_wrap=True)
    _show({key: escape(value) for key, value in rows.items()})


def _amounts(cfg: DictConfig, data: Any) -> list[str]:
    """Return the size of the vocabulary, of a step and of the training."""
    tokens = data.tokens_per_step * cfg.trainer.accumulate_grad_batches
    return [f"vocabulary {data.d_vocab:,}", f"{tokens:,} tokens per step", f"{cfg.trainer.max_steps:,} steps"]


def _cut(cfg: DictConfig, truncated: dict[str, int]) -> dict[str, str]:
    """Return how many texts were truncated, by split, if any were."""
    counts = [f"{count:,} in {split}" for split, count in truncated.items() if count]
    if not counts:
        return {}
    where = ", ".join(counts)
    return {"cut": f"{where}: longer than data.n_ctx={cfg.data.n_ctx} and truncated to it; in a pair, the longer text"}


def _aligned(uri: str, alignment: dict[str, Any]) -> str:
    """Return where a reference with a different tokenizer is compared."""
    ends = "ends of words" if alignment["unit"] == "word" else "common token boundaries"
    return (
        f"{uri.rstrip('/').rsplit('/', 1)[-1]} uses a different tokenizer: compared at {alignment['units']} {ends} in "
        f"each of {alignment['sequences']} sequences, {alignment['share_a']:.0%} of this run's tokens"
    )


def show_end(folder: Path, summary: dict[str, Any], next_command: str) -> None:
    """Print the numbers of a finished run, the places of its files, and what to try next.

    Args:
        folder: The run folder.
        summary: The content of summary.json.
        next_command: A command that builds on this run.
    """
    rows = _accuracies(summary) if summary.get("splits") is not None else _losses(summary)
    if summary.get("drift"):
        lines = [*(_nearest(measure, drift) for measure, drift in summary["drift"].items()), f"[dim]{REFERENCES}[/dim]"]
        rows["nearest"] = "\n".join(lines)
    if summary.get("moves"):
        lines = [
            *(_moved(reference, curves) for reference, curves in summary["moves"].items()),
            f"[dim]{FIRST_TICK}[/dim]",
        ]
        rows["moves"] = "\n".join(lines)
    if summary.get("alerts"):
        rows["alerts"] = "\n".join(map(escape, summary["alerts"]))
    if summary.get("tokens_per_second") is not None:  # the console callback counts them
        rows["speed"] = _speed(summary)
    files = {"page": "report.html", "figures": "figures", "curves": "curves.parquet", "metrics": "metrics.csv"}
    for key, name in files.items():
        if (folder / name).exists():
            rows[key] = _link(folder / name)
    if summary.get("wandb"):
        rows["W&B"] = escape(summary["wandb"])
    rows["next"] = f"[cyan]{escape(next_command)}[/cyan]"
    color = "green" if summary["status"] == "finished" else "red"
    name, ending = escape(folder.name), "" if color == "green" else f", [red]{_ending(summary)}[/red]"
    size = "" if summary.get("parameters") is None else f", {summary['parameters'] / 1e6:.2f} M parameters"
    terminal.print(f"\n[bold {color}]{name}[/bold {color}] {summary['steps']:,} steps{size}{ending}", soft_wrap=True)
    if summary.get("final"):
        terminal.print(final_table(summary["final"]), crop=False)
    _show(rows)


def _link(path: Path) -> str:
    """Return a path that a terminal opens at a click."""
    return f"[link={path.resolve().as_uri()}]{escape(str(path))}[/link]"


def _ending(summary: dict[str, Any]) -> str:
    """Return how a run ended that did not reach its last step with a finite loss."""
    if summary["status"] == "diverged":
        step = summary.get("diverged_at")
        loss = "a loss" if step is None else f"the loss of step {step:,}"
        return f"diverged: {loss} is not finite; lower the learning rates and type overwrite=true"
    hint = "; run the same command again to continue" if summary["status"] == "stopped" else ""
    return escape(f"{summary['status']}: {summary.get('why')}{hint}")


def _losses(summary: dict[str, Any]) -> dict[str, str]:
    """Return the losses of a language model, beside those of token frequencies alone."""
    loss, unigram = summary.get("val_loss"), summary.get("unigram_loss")
    if loss is None or unigram is None:
        return {}
    return {
        "loss": f"[bold]{loss:.3f}[/bold] nats/token ({unigram:.3f} from token frequencies alone)",
        "bits/byte": f"[bold]{_number(summary, 'bits_per_byte')}[/bold] ({_number(summary, 'unigram_bits_per_byte')})",
        "perplexity": f"{_number(summary, 'perplexity', ',.1f')} ({math.exp(unigram):,.1f})",
        "accuracy": _number(summary, "accuracy", ".1%"),
    }


def _number(summary: dict[str, Any], key: str, form: str = ".3f") -> str:
    """Return a number as it is shown; JSON has null for one that is not finite."""
    return "not finite" if summary.get(key) is None else format(summary[key], form)


def _nearest(measure: str, drift: dict[str, Any]) -> str:
    """Return the reference group that the model ended nearest to, by one measure."""
    farther = f"{escape(drift['next'])} is farther by {_number(drift, 'difference')} ± {_number(drift, 'stderr')}"
    group = f"[bold]{escape(drift['nearest'])}[/bold]" if drift["differs"] else "no group"
    test = f"p = {_number(drift, 'p')}" if drift.get("p") is not None else "too few references for a verdict"
    return f"{group} by {escape(measure)} at {escape(drift['site'])}: {farther} ({test})"


def _moved(reference: str, curves: dict[str, dict[str, int | None]]) -> str:
    """Return the first steps at which the curves of one reference differ from their first tick, by one measure."""
    from dissimilarity.figures.style import short_names, spread

    measure, steps = next(iter(curves.items()), ("no measure", {}))
    if not steps:
        return escape(f"vs {reference}: no curve")
    kind, names = short_names(list(steps))
    sites = spread(list(zip(names, steps.values(), strict=True)), SITES_SHOWN)
    moved = ", ".join(f"{name} " + ("never" if step is None else f"from step {step:,}") for name, step in sites)
    return escape(f"vs {reference} by {measure}, {kind}: {moved}")


def _accuracies(summary: dict[str, Any]) -> dict[str, str]:
    """Return the accuracy of a classifier in distribution and on each split out of it."""
    by_split = {name: value for name, value in summary["splits"].items() if name != "val" and value is not None}
    if summary.get("val_accuracy") is None:
        return {}
    labels = escape(", ".join(summary.get("labels") or []))
    rows = {"accuracy": f"[bold]{summary['val_accuracy']:.1%}[/bold] in distribution ({labels})"}
    if by_split:
        width = max(map(len, by_split))
        lines = [f"{name:<{width}} {value:6.1%}" for name, value in by_split.items()]
        mean = f"[bold]{_number(summary, 'ood_accuracy', '.1%')}[/bold] out of distribution, the mean of"
        rows["elsewhere"] = "\n".join([mean, *map(escape, lines)])
    return rows


def _show(rows: dict[str, str]) -> None:
    """Print facts by name. In a terminal, words that do not fit go below the others; commands and paths stay whole."""
    for key, value in rows.items():
        is_wrapped = terminal.is_terminal and key not in WHOLE
        lines = Text.from_markup(value).wrap(terminal, max(20, terminal.width - INDENT) if is_wrapped else UNLIMITED)
        for name, line in zip([key, *[""] * len(lines)], lines, strict=False):
            terminal.print(Text.assemble((f"  {name}".ljust(INDENT), "dim"), line), soft_wrap=True)


def _speed(summary: dict[str, Any]) -> str:
    speed = f"{summary['tokens_per_second']:,.0f} tokens/s"
    share = summary.get("tracking_share")
    return speed if share is None else f"{speed}, {share:.1%} of the time spent tracking"


def next_command(cfg: DictConfig, folder: Path, overrides: list[str]) -> str:
    """Return the training that is likely to be of interest next.

    After a classifier these are others that differ in their seed; otherwise the other family, compared with this run.
    """
    if settings.classifies(cfg):
        reused = [override for override in overrides if not override.startswith(("seed=", "name=", "overwrite="))]
        return " ".join(["python train.py -m", *map(shlex.quote, reused), shlex.quote("seed=range(20)")])
    reference = f"{cfg.runs_dir}/{folder.name}"
    if cfg.init_from is not None:
        return f"python analyze.py study=compare {_listed('models', cfg.init_from, reference)}"
    other = "gelu" if str(cfg.model.family).startswith("solu") else "solu"
    dropped = ("model=", "reference", "alerts", "name=", "overwrite=", "hydra", "logger=", "seed=")
    reused = [override for override in overrides if not override.lstrip("+~").startswith(dropped)]
    if cfg.seed:
        reused.append(f"seed={cfg.seed}")
    references = _listed("references", "init", reference)
    return " ".join(["python train.py", f"model={other}", *map(shlex.quote, reused), references])


def _listed(key: str, *values: str) -> str:
    """Return an override with a list, which is quoted where a value has characters of the shell or of Hydra.

    >>> print(_listed("models", "runs/a", "runs/b"), _listed("models", "runs/a[1]"))
    models=[runs/a,runs/b] 'models=["runs/a[1]"]'
    """
    if all(re.fullmatch(r"[\w./@:-]+", value) for value in values):
        return f"{key}=[{','.join(values)}]"
    return shlex.quote(f"{key}=[{','.join(json.dumps(value, ensure_ascii=False) for value in values)}]")
