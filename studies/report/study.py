"""The study `report`: one page for any set of runs, and a table of where their curves end."""

from omegaconf import DictConfig
from rich.markup import escape

from dissimilarity.cli.fitted_table import FittedTable
from dissimilarity.report.about import last_step, status_of
from dissimilarity.report.folders import Folder
from dissimilarity.tables.final import final_values
from studies.common.format import number, table_head, table_row
from studies.common.next_command import models_override
from studies.common.results import Results
from studies.common.run_folders import ends_of, folders_of, write_csv

COLUMNS = ("run", "state", "step", "loss", "curves")


def report(cfg: DictConfig) -> Results:
    """Show the folders of `cfg.models`, whether they are finished or not.

    Args:
        cfg: config of analyze.py.

    Raises:
        ValueError: No folder, or one that does not exist.
    """
    folders = folders_of(cfg)
    lines = [_line(folder) for folder in folders]
    shown = FittedTable("runs", names=["run"], drop=["curves"])
    for column in COLUMNS:
        shown.add_column(column)
    for line in lines:
        shown.add_row(*map(escape, line))
    table = ends_of(folders)
    write_csv(table, cfg)
    problems = [f"{folder.name}: {problem}" for folder in folders for problem in folder.problems]
    text = ["# Runs", "", *table_head(*COLUMNS), *(table_row(*line) for line in lines), ""]
    text += [*(f"- {problem}" for problem in problems), *([""] if problems else [])]
    return Results(
        table=table,
        summary="\n".join(text),
        figures={},
        provenance={"folders": [str(folder.path.absolute()) for folder in folders]},
        shown=[shown, *map(escape, problems)],
        next_command=f"python analyze.py study=curves {models_override(cfg.models)}" if table.num_rows else None,
        page_of=[folder.path for folder in folders],
    )


def _line(folder: Folder) -> list[str]:
    loss, step = folder.summary.get("val_loss"), last_step(folder)
    curves = 0 if folder.curves is None else len(final_values(folder.curves))
    state = status_of(folder) if folder.kind == "run" else folder.kind
    shown = number(loss, sign=False) if isinstance(loss, float) else ""
    return [folder.name, state, "" if step is None else f"{step:,}", shown, str(curves)]
