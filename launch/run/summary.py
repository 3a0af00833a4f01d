"""What a training says at its start and at its end."""

import math
import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

import settings
from launch.run.folder import read_json

terminal = Console(highlight=False)


def show_start(folder: Path, cfg: DictConfig, data: Any, module: Any, notes: dict[str, Any], continued: bool) -> None:
    """Prints what is about to be trained, one fact a line.

    Args:
        folder: the run folder.
        cfg: the config.
        data: its LightningDataModule.
        module: its RecipeModule.
        notes: content of provenance.json.
        continued: whether the run has a checkpoint to go on from.
    """
    from launch.machine import device_name, device_of
    from launch.run.references import with_step

    parameters = sum(parameter.numel() for parameter in module.net.parameters())
    precision, compiled = notes["precision"], notes["compile"]
    rows = {
        "model": f"{cfg.model.family}, width {cfg.width}, depth {cfg.depth}, {parameters / 1e6:.2f} M parameters",
        **({} if cfg.init_from is None else {"init from": with_step(cfg.init_from, notes["init_from"])}),
        "data": ", ".join([settings.data_name(cfg), *_amounts(cfg, data)]),
        **_cut(cfg, notes["data"].get("truncated", {})),
        "device": device_name(device_of(cfg.trainer.accelerator)),
        "precision": f"{precision['chosen']} ({precision['why']})",
        "compile": f"{'yes' if compiled['chosen'] else 'no'} ({compiled['why']})",
    }
    if "tracker" in (cfg.callbacks or {}):
        known = read_json(folder / "provenance.json").get("references", {})
        rows["against"] = ", ".join(with_step(uri, known.get(uri, {})) for uri in cfg.references)
        aligned = [_aligned(uri, found["alignment"]) for uri, found in known.items() if "alignment" in found]
        if aligned:
            rows["aligned"] = f"\n  {'':<10} ".join(aligned)
    terminal.print(f"[bold]{folder}[/bold]{' (continued)' if continued else ''}", soft_wrap=True)
    _show({key: escape(value) for key, value in rows.items()})


def _amounts(cfg: DictConfig, data: Any) -> list[str]:
    """How much is learned from."""
    tokens = data.tokens_per_step * cfg.trainer.accumulate_grad_batches
    return [f"vocabulary {data.d_vocab}", f"{tokens:,} tokens a step", f"{cfg.trainer.max_steps} steps"]


def _cut(cfg: DictConfig, truncated: dict[str, int]) -> dict[str, str]:
    """How many texts did not fit, by split, where some did not."""
    counts = [f"{count:,} in {split}" for split, count in truncated.items() if count]
    if not counts:
        return {}
    where = ", ".join(counts)
    return {"cut": f"{where}: longer than data.n_ctx={cfg.data.n_ctx}, and cut to it; of a pair the longer text"}


def _aligned(uri: str, found: dict[str, Any]) -> str:
    """Where a reference that reads other tokens is compared."""
    ends = "ends of words" if found["unit"] == "word" else "common token boundaries"
    return (
        f"{uri.rstrip('/').rsplit('/', 1)[-1]} reads other tokens: compared at {found['units']} {ends} in each of "
        f"{found['sequences']} sequences, {found['share_a']:.0%} of this run's tokens"
    )


def show_end(folder: Path, summary: dict[str, Any], next_command: str) -> None:
    """Prints the numbers of a finished run, where its files are, and what to try next.

    Args:
        folder: the run folder.
        summary: content of its summary.json.
        next_command: a command that goes on from this run.
    """
    rows = _accuracies(summary) if "splits" in summary else _losses(summary)
    if summary.get("drift"):
        rows["nearest"] = f"\n  {'':<10} ".join(_nearest(measure, of) for measure, of in summary["drift"].items())
    if summary["tokens_per_second"] is not None:  # it is the console that counts them
        rows["speed"] = _speed(summary)
    for key, name in (("figures", "figures"), ("curves", "curves.parquet"), ("metrics", "metrics.csv")):
        if (folder / name).exists():
            rows[key] = escape(str(folder / name))
    if summary.get("wandb"):
        rows["W&B"] = escape(summary["wandb"])
    rows["next"] = f"[cyan]{escape(next_command)}[/cyan]"
    color = "green" if summary["status"] == "finished" else "red"
    name, how = escape(folder.name), "" if color == "green" else f", [red]{_how(summary)}[/red]"
    terminal.print(f"\n[bold {color}]{name}[/bold {color}] {summary['steps']} steps{how}", soft_wrap=True)
    _show(rows)


def _how(summary: dict[str, Any]) -> str:
    """How a run ended that did not come to its last step with a finite loss."""
    if summary["status"] == "diverged":
        return (
            f"diverged: the loss of step {summary['diverged_at']} is not finite; lower the rates of optim, and type "
            "overwrite=true"
        )
    goes_on = "; the same command goes on" if summary["status"] == "stopped" else ""
    return escape(f"{summary['status']}: {summary['why']}{goes_on}")


def _losses(summary: dict[str, Any]) -> dict[str, str]:
    """What a language model came to, beside what token frequencies alone come to."""
    loss, unigram = summary.get("val_loss"), summary.get("unigram_loss")
    if loss is None or unigram is None:
        return {}
    return {
        "loss": f"[bold]{loss:.3f}[/bold] nats/token ({unigram:.3f} from token frequencies alone)",
        "bits/byte": f"[bold]{summary['bits_per_byte']:.3f}[/bold] ({summary['unigram_bits_per_byte']:.3f})",
        "perplexity": f"{summary['perplexity']:,.1f} ({math.exp(unigram):,.1f})",
        "accuracy": f"{summary['accuracy']:.1%}",
    }


def _nearest(measure: str, of: dict[str, Any]) -> str:
    """To which group of references the model came, by one measure."""
    farther = f"{of['next']} is farther by {of['difference']:.3f} ± {of['stderr']:.3f}"
    group = f"[bold]{of['nearest']}[/bold]" if of["differs"] else "no group"
    return f"{group} by {measure} at {of['site']}: {farther}"


def _accuracies(summary: dict[str, Any]) -> dict[str, str]:
    """What a classifier came to, in distribution and on each split out of it."""
    rest = {name: value for name, value in summary["splits"].items() if name != "val" and value is not None}
    if summary["val_accuracy"] is None:
        return {}
    rows = {"accuracy": f"[bold]{summary['val_accuracy']:.1%}[/bold] in distribution ({', '.join(summary['labels'])})"}
    if rest:
        width = max(map(len, rest))
        lines = [f"{name:<{width}} {value:6.1%}" for name, value in rest.items()]
        mean = f"[bold]{summary['ood_accuracy']:.1%}[/bold] out of distribution, the mean of"
        rows["elsewhere"] = f"\n  {'':<10} ".join([mean, *map(escape, lines)])
    return rows


def _show(rows: dict[str, str]) -> None:
    for key, value in rows.items():
        terminal.print(f"  [dim]{key:<10}[/dim] {value}", soft_wrap=True)


def _speed(summary: dict[str, Any]) -> str:
    speed = f"{summary['tokens_per_second']:,.0f} tokens/s"
    share = summary.get("tracking_share")
    return speed if share is None else f"{speed}, {share:.1%} of the time spent tracking"


def next_command(cfg: DictConfig, folder: Path, overrides: list[str]) -> str:
    """The training that a reader of this one would want next.

    After a classifier others that differ in seed alone; else the other family, followed against this run.
    """
    if settings.classifies(cfg):
        kept = [override for override in overrides if not override.startswith(("seed=", "name=", "overwrite="))]
        return " ".join(["python train.py -m", *map(shlex.quote, kept), shlex.quote("seed=range(20)")])
    reference = f"{cfg.runs_dir}/{folder.name}"
    if cfg.init_from is not None:
        return f"python analyze.py study=compare models=[{cfg.init_from},{reference}]"
    other = "gelu" if str(cfg.model.family).startswith("solu") else "solu"
    dropped = ("model=", "references=", "name=", "overwrite=", "hydra", "logger=", "seed=")
    kept = [override for override in overrides if not override.startswith(dropped)]
    if cfg.seed:
        kept.append(f"seed={cfg.seed}")
    return " ".join(["python train.py", f"model={other}", *map(shlex.quote, kept), f"references=[init,{reference}]"])
