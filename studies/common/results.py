"""The folder of a study's results: whose it is, what is written into it, and what the terminal says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console, RenderableType
from rich.markup import escape

from launch.run.config_file import read_yaml
from launch.run.contents import is_run_config, listed
from launch.run.folder import differing, read_json, resolved, write_json, write_text
from launch.run.provenance import origin, this_start

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
EXEMPT = ("results_dir", "device")
OURS = (".lock", "rows.jsonl", "table.parquet", "summary.md", "provenance.json", "config.yaml", "figures")
STUDY_KEYS = {"study", "models", "measures", "probe", "results_dir"}
"""Root keys that the config.yaml of every folder of results has, and that of a run has not."""


@dataclass(frozen=True)
class Results:
    """What a study found.

    Attributes:
        table: tidy, what the rest is a view of.
        summary: the findings in Markdown.
        figures: by file name.
        provenance: models with their hashes, probe set.
        shown: what the terminal shows of it.
        next_command: what a reader would want next.
    """

    table: "pa.Table"
    summary: str
    figures: "dict[str, Figure]"
    provenance: dict[str, Any]
    shown: Sequence[RenderableType]
    next_command: str


def check_folder(folder: Path, cfg: DictConfig) -> None:
    """Makes sure that results of `cfg` may go into `folder`; writes nothing.

    Raises:
        ValueError: it holds the results of another command, or something else.
    """
    saved = folder / "config.yaml"
    if not saved.exists():
        strangers = sorted(path.name for path in folder.iterdir() if path.name not in OURS) if folder.exists() else []
        if strangers:
            raise ValueError(
                f"{folder} is not a folder of results (no config.yaml; it holds {listed(strangers)}): "
                "choose another name with name=..."
            )
        return
    if not is_run_config(saved, STUDY_KEYS):
        raise ValueError(
            f"{folder} is not a folder of results (its config.yaml is a run's or something else's): "
            "choose another name with name=..."
        )
    changes = differing(read_yaml(saved), resolved(cfg))
    lines = [f"  {key}: {old} -> {new}" for key, old, new in changes if key not in EXEMPT]
    if lines and not cfg.overwrite:
        raise ValueError(
            f"{folder} holds the results of another command:\n" + "\n".join(lines) + "\n"
            "Give these another name with name=..., or replace the old ones with overwrite=true"
        )


def claim(folder: Path, cfg: DictConfig) -> None:
    """Makes `folder` that of `cfg` before there are results, for a study that keeps what it has measured so far."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved(cfg))))


def write_results(results: Results, folder: Path, cfg: DictConfig) -> None:
    """Puts results in the place of those that were there."""
    from dissimilarity.figures.style import write_figure
    from dissimilarity.tables.seal import write_table

    claim(folder, cfg)
    before = read_json(folder / "provenance.json").get("figures", [])
    names = list(results.figures)
    write_json(
        folder / "provenance.json", {**origin(ROOT), "start": this_start(), **results.provenance, "figures": names}
    )
    write_table(results.table, folder / "table.parquet")
    for name in set(before) - set(names):
        for path in ((folder / "figures" / f"{name}.{kind}") for kind in ("png", "pdf")):
            path.unlink(missing_ok=True)
    for name, figure in results.figures.items():
        write_figure(figure, folder / "figures", name)
    write_text(folder / "summary.md", results.summary)


def show_results(results: Results, folder: Path) -> None:
    """Prints what was found, where the files are, and what to try next."""
    terminal = Console(highlight=False)
    for part in results.shown:
        terminal.print(part)
        terminal.print()
    rows = {
        "summary": folder / "summary.md",
        "table": folder / "table.parquet",
        **({"figures": folder / "figures"} if results.figures else {}),
        "next": f"[cyan]{escape(results.next_command)}[/cyan]",
    }
    for key, value in rows.items():
        shown = value if isinstance(value, str) else escape(str(value))
        terminal.print(f"  [dim]{key:<8}[/dim] {shown}", soft_wrap=True)
