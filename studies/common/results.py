"""The folder of a study's results: who owns it, what is written into it, and what the terminal shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console, RenderableType
from rich.markup import escape

from launch.run.contents import listed, run_config
from launch.run.folder import differing, read_json, resolved, write_json, write_text
from launch.run.provenance import origin, this_start
from studies.common.next_command import with_typed

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from dissimilarity.tables.colored_text import ColoredText

ROOT = Path(__file__).resolve().parents[2]
EXEMPT = ("results_dir", "device")
RESULT_FILES = (
    ".lock",
    "rows.jsonl",
    "table.parquet",
    "table.csv",
    "texts.json",
    "summary.md",
    "provenance.json",
    "config.yaml",
    "figures",
    "report.html",
)
STUDY_KEYS = {"study", "models", "measures", "probe", "results_dir"}
"""Root keys in the config.yaml of every results folder, none of them in that of a run."""


@dataclass(frozen=True)
class Results:
    """The results of a study.

    Attributes:
        table: the tidy table that everything else is a view of.
        summary: the findings in Markdown.
        figures: figures by file name.
        provenance: the models with their hashes, and the probe set.
        shown: what the terminal shows.
        next_command: the command that a reader would want to run next; None if there is none.
        coverage: what the intervals that the terminal shows cover; empty if there are none.
        texts: texts that are colored by influence, for the page.
        page_of: the folders that report.html shows; empty: the results themselves.
    """

    table: "pa.Table"
    summary: str
    figures: "dict[str, Figure]"
    provenance: dict[str, Any]
    shown: Sequence[RenderableType]
    next_command: str | None
    coverage: str = ""
    texts: "Sequence[ColoredText]" = ()
    page_of: Sequence[Path] = ()


def check_folder(folder: Path, cfg: DictConfig) -> None:
    """Check that results of `cfg` may go into `folder`; write nothing.

    Raises:
        ValueError: The folder holds the results of another command, or something else.
    """
    config = folder / "config.yaml"
    if not config.exists():
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        foreign = sorted(name for name in names if name not in RESULT_FILES)
        if foreign:
            raise ValueError(
                f"{folder} is not a folder of results (no config.yaml; it holds {listed(foreign)}): "
                "choose another name with name=..."
            )
        return
    earlier = run_config(config, STUDY_KEYS)
    if earlier is None:
        raise ValueError(
            f"{folder} is not a folder of results (its config.yaml is a run's or something else's): "
            "choose another name with name=..."
        )
    changes = differing(earlier, resolved(cfg))
    lines = [f"  {key}: {old} -> {new}" for key, old, new in changes if key not in EXEMPT]
    if lines and not cfg.overwrite:
        raise ValueError(
            f"{folder} holds the results of another command:\n" + "\n".join(lines) + "\n"
            "Choose another name with name=..., or replace the old results with overwrite=true"
        )


def claim(folder: Path, cfg: DictConfig) -> None:
    """Write the config into `folder` before there are results, for a study that saves its measurements as it goes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolved(cfg))))


def write_results(results: Results, folder: Path, cfg: DictConfig) -> None:
    """Write results into `folder` and remove the figures of an earlier command that they do not replace."""
    # `analyze.py --help` imports this module, and matplotlib and pyarrow take time.
    from dissimilarity.figures.figure import write_figure
    from dissimilarity.report import page
    from dissimilarity.tables.colored_text import write_texts
    from dissimilarity.tables.seal import write_table

    claim(folder, cfg)
    before = read_json(folder / "provenance.json").get("figures")
    names = list(results.figures)
    write_json(
        folder / "provenance.json", {**origin(ROOT), "start": this_start(), **results.provenance, "figures": names}
    )
    write_table(results.table, folder / "table.parquet")
    for path in _figures_of(before, folder / "figures"):
        if path.stem not in names or path.suffix[1:] not in cfg.figures.formats:
            path.unlink()
    for name, figure in results.figures.items():
        write_figure(figure, folder / "figures", name, cfg.figures.formats)
    write_text(folder / "summary.md", results.summary)
    write_texts(results.texts, folder)
    if results.page_of:
        page.write_page(results.page_of, folder / page.FILE)
    else:
        page.refresh(folder)


def _figures_of(names: Any, folder: Path) -> list[Path]:
    """Return the files in a folder of figures that have one of `names`, which come from an untrusted file."""
    files = [path for kind in ("png", "pdf", "svg") for path in folder.glob(f"*.{kind}") if path.is_file()]
    return [path for path in files if isinstance(names, list) and path.stem in names]


def show_results(results: Results, folder: Path, typed: Sequence[str] = ()) -> None:
    """Print the findings, where the files are, and what to run next.

    Args:
        results: the results.
        folder: where they were written.
        typed: the overrides of the command line, which the next command repeats.
    """
    terminal = Console(highlight=False)
    for part in results.shown:
        terminal.print(part, crop=False)
        terminal.print()
    if results.coverage:
        terminal.print(f"  [dim]{results.coverage}[/dim]")
    lines = {"summary": escape(str(folder / "summary.md")), "table": escape(str(folder / "table.parquet"))}
    if (folder / "report.html").exists():
        lines["page"] = escape(str(folder / "report.html"))
    if results.figures:
        lines["figures"] = escape(str(folder / "figures"))
    if results.next_command is not None:
        lines["next"] = f"[cyan]{escape(with_typed(results.next_command, typed))}[/cyan]"
    for key, value in lines.items():
        terminal.print(f"  [dim]{key:<8}[/dim] {value}", soft_wrap=True)
