"""What the command prints, and the files that it writes."""

import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dissimilarity.capture.site_names import site_name
from dissimilarity.cli.result import Comparison
from dissimilarity.cli.rows import latex_columns, matched_rows, notes_by_site, notes_of
from dissimilarity.cli.sides import Side
from dissimilarity.cli.verdict import ROUNDING, with_interval
from dissimilarity.comparison.elementwise import Elementwise
from dissimilarity.figures.comparison import comparison_figure
from dissimilarity.figures.figure import write_figure
from dissimilarity.figures.style import short_names
from dissimilarity.figures.text import text_figure
from dissimilarity.inference.coverage import PROBE_TEXT, SAMPLES
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.titles import dissimilarity_title
from dissimilarity.moments.cross import SitePair
from dissimilarity.probe.alignment import Alignment
from dissimilarity.report import page
from dissimilarity.tables.colored_text import colored_text, write_texts
from dissimilarity.tables.export import as_csv, as_latex, cell, two_digits
from dissimilarity.tables.influential_text import influence_grid, influential_text
from dissimilarity.tables.token_texts import around, printable

CONTEXT = 12
"""Tokens on each side of the one that makes two models differ most, in a line of the terminal."""


def show(result: Comparison, kind: str) -> None:
    """Print the verdict and the matched layers.

    Args:
        result: the comparison.
        kind: table, json, csv or latex; of csv, notes that hold for all rows go to standard error.
    """
    texts = {
        "json": lambda: _json(result),
        "csv": lambda: as_csv(matched_rows(result)),
        "latex": lambda: _latex(result),
    }
    if kind == "csv":
        for note in notes_of(result):
            print(f"note: {note}", file=sys.stderr)
    try:
        if kind in texts:
            print(texts[kind](), end="")
        else:
            _show_table(result)
        sys.stdout.flush()
    except BrokenPipeError:  # as under `| head`: files and the exit code still count
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _json(result: Comparison) -> str:
    return json.dumps(summary_of(result), indent=2, allow_nan=False) + "\n"


def _latex(result: Comparison) -> str:
    rows = matched_rows(result)
    notes = "".join(f"% {' '.join(note.split())}\n" for note in notes_of(result))
    return notes + as_latex(rows, latex_columns(rows))


def summary_of(result: Comparison) -> dict[str, Any]:
    """Return everything that was found as plain values; numbers that do not exist are None."""
    outputs = None if result.differences is None else result.differences.outputs
    return {
        "verdict": result.verdict,
        "a": result.labels[0],
        "b": result.labels[1],
        "measured_on": _probe_in_words(result),
        "probe": result.probe.notes,
        "notes": notes_of(result),
        "rows": [{key: _plain(value) for key, value in row.items()} for row in matched_rows(result)],
        "outputs": None if outputs is None else {key: _plain(value) for key, value in vars(outputs).items()},
        "rounding": None if result.differences is None else ROUNDING,
        "text": differing_text(result),
    }


def differing_text(result: Comparison) -> list[str]:
    """Return what stands around the tokens that make the models differ most in the three sequences that do so most.

    It is empty without influences, which are those of the first measure.

    Where tokens are not text, these are the numbers of the sequences, or of the rows of arrays (n, d), from 0 as in
    Python.
    """
    row = _farthest(result)
    if row is None:
        return []
    if result.probe.texts is None:
        totals = np.bincount(np.asarray(row["token_index"]) // result.probe.length, row["token_influence"])
        noun = "row" if result.are_arrays and result.probe.length == 1 else "sequence"
        return [f"{noun} {number}" for number in np.argsort(-totals, kind="stable")[:3].tolist()]
    tokens, tokenizer, mask = _read_by_a(result)
    places, texts = np.nan_to_num(influence_grid(row, tokens), nan=-np.inf), result.probe.texts
    passages = []
    for passage in influential_text(row, tokens, tokenizer, top=3, mask=mask, texts=texts).sequences:
        words, position = texts[passage.sequence], int(places[passage.sequence].argmax())
        before, after = around(words, position, CONTEXT)
        passages.append(" ".join(printable(f"{before}{words[position]}{after}").split()))
    return passages


def write(result: Comparison, sides: Sequence[Side], folder: Path) -> None:
    """Write table, summary, figures, provenance and the page that shows them into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(result.table), folder / "table.parquet")
    (folder / "layers.csv").write_text(as_csv(matched_rows(result)), encoding="utf-8")
    (folder / "summary.json").write_text(_json(result), encoding="utf-8")
    origin = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(["dissimilarity", *sys.argv[1:]]),
        "dissimilarity": version("dissimilarity"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "models": {label: side.provenance for label, side in zip(result.labels, sides, strict=True)},
        "probe": result.probe.notes,
    }
    (folder / "provenance.json").write_text(json.dumps(origin, indent=2, default=str) + "\n", encoding="utf-8")
    write_figure(comparison_figure(result.table, *result.labels), folder / "figures", "comparison")
    texts = []
    for old in (folder / "figures").glob("text.*"):  # of an earlier command
        old.unlink()
    if (row := _farthest(result)) is not None and result.probe.texts is not None:
        tokens, tokenizer, mask = _read_by_a(result)
        a, b = result.labels
        measured = dissimilarity_title(result.measures[0].label)
        title = f"{measured} of {a} and {b} at {site_name(row['site_a'], row['site_b'])}"
        shown: dict[str, Any] = {"title": title, "mask": mask, "texts": result.probe.texts}
        write_figure(text_figure(row, tokens, tokenizer, **shown), folder / "figures", "text")
        texts = [colored_text(row, tokens, tokenizer, **shown)]
    write_texts(texts, folder)
    page.refresh(folder)


def _farthest(result: Comparison) -> dict[str, Any] | None:
    """Return the row with influences of tokens at which the models differ most by the first measure."""
    rows = [row for row in result.at_matched(result.measures[0]) if row.get("token_influence")]
    finite = [row for row in rows if math.isfinite(row["dissimilarity"])]
    return max(finite, key=lambda row: row["dissimilarity"], default=None)


def _read_by_a(result: Comparison) -> tuple[Any, Any, Any]:
    """Return the tokens that the first model read, their tokenizer, and the mask."""
    inputs = result.probe.inputs
    if isinstance(inputs, Alignment):
        return inputs.a.tokens, result.probe.tokenizer, inputs.a.mask
    return inputs, result.probe.tokenizer, None


class _Terminal(Console):
    """A console that leaves it to the caller what happens when nobody reads on."""

    def on_broken_pipe(self) -> None:
        """Raise the error again."""
        raise BrokenPipeError


def _show_table(result: Comparison) -> None:
    terminal = _Terminal(height=100, highlight=False, emoji=False)  # without a height, a dumb one has 80 columns
    terminal.print(result.verdict, markup=False)
    for passage in differing_text(result):
        words = f"on text like: {passage}" if result.probe.texts is not None else f"most in {passage}, counted from 0"
        terminal.print(f"  {words}", style="dim", markup=False)
    terminal.print()
    for measures in _side_by_side(result, terminal):
        _print_whole(terminal, _layers(result, measures))
    for note in [*notes_of(result), *notes_by_site(result)]:
        terminal.print(f"note: {note}", style="dim", markup=False)
    if result.differences is not None and result.differences.sites:
        terminal.print()
        _print_whole(terminal, _numbers(result.differences))
        terminal.print(ROUNDING, style="dim", markup=False)
    coverage = SAMPLES if result.are_arrays else PROBE_TEXT
    rows = [row for measure in result.measures for row in result.at_matched(measure)]
    has_interval = any(math.isfinite(row["stderr"]) for row in rows)
    words = f"On {_probe_in_words(result)}.{f' {coverage}' if has_interval else ''}"
    terminal.print(f"\n{words}", style="dim", markup=False)


def _width(table: Table) -> int:
    """Return the width of a table in which nothing is cut."""
    return Console(width=10**4, emoji=False).measure(table).maximum


def _print_whole(terminal: Console, table: Table) -> None:
    """Print a table without cutting a name or a number, even where it is wider than the terminal."""
    width = terminal.width
    terminal.width = max(width, _width(table))  # rich prints nothing wider than that
    terminal.print(table, crop=False)
    terminal.width = width


def _side_by_side(result: Comparison, terminal: Console) -> list[list[Measure]]:
    """Return the measures in groups whose tables are as narrow as the terminal."""
    groups: list[list[Measure]] = []
    for measure in result.measures:
        wider = [*(groups[-1] if groups else []), measure]
        if groups and _width(_layers(result, wider)) <= terminal.width:
            groups[-1] = wider
        else:
            groups.append([measure])
    return groups


def _layers(result: Comparison, measures: Sequence[Measure]) -> Table:
    """Return the values and nulls of some measures at matched sites."""
    kind, names = _names(result.matched)
    rows = {
        (measure.label, row["site_a"], row["site_b"]): row for measure in measures for row in result.at_matched(measure)
    }
    has_p = any(math.isfinite(row["p"]) for row in rows.values())
    pairs = sorted(dict.fromkeys((a, b) for _, a, b in rows), key=lambda pair: pair not in names)  # outputs come last
    table = Table(show_edge=False, pad_edge=False)
    table.add_column(escape(kind) if names.keys() & set(pairs) else "site")
    for measure in measures:
        table.add_column(measure.label, justify="right", no_wrap=True)
        table.add_column("null", justify="right", style="dim")
        if has_p:
            table.add_column("p", justify="right")
    for pair in pairs:
        cells = []
        for measure in measures:
            row = rows.get((measure.label, *pair))
            numbers = [""] * 3 if row is None else [with_interval(row), cell(row["null"]), cell(row["p"])]
            cells += numbers if has_p else numbers[:2]
        table.add_row(escape(names.get(pair, "outputs")), *cells)
    return table


def _numbers(differences: Elementwise) -> Table:
    """Return the differences element by element."""
    kind, names = _names([(site.site_a, site.site_b) for site in differences.sites])
    table = Table(show_edge=False, pad_edge=False)
    table.add_column(escape(kind))
    for name in ("relative\nerror", "by\nrounding", "cosine", "largest\ndifference"):
        table.add_column(name, justify="right")
    for site in differences.sites:
        numbers = (
            two_digits(site.relative_error),
            two_digits(site.noise),
            f"{site.cosine:.6f}" if math.isfinite(site.cosine) else "-",
            two_digits(site.largest),
        )
        table.add_row(
            escape(names[site.site_a, site.site_b]), *numbers, style="bold" if site == differences.first else None
        )
    return table


def _names(pairs: Sequence[SitePair]) -> tuple[str, dict[SitePair, str]]:
    """Return a header and a short name for each pair of sites."""
    (kind_a, names_a), (kind_b, names_b) = (short_names(list(sites)) for sites in zip(*pairs, strict=True))
    named = zip(pairs, names_a, names_b, strict=True)
    return site_name(kind_a, kind_b), {pair: site_name(a, b) for pair, a, b in named}


def _probe_in_words(result: Comparison) -> str:
    notes = result.probe.notes
    if not notes:
        return "saved activations"
    if "tokens" in notes:
        return f"{notes['sequences']} sequences of {notes['tokens']}"
    count = f"{notes['sequences']} of {notes['asked']}" if "asked" in notes else notes["sequences"]
    words = f"{count} sequences of {notes['length']} tokens from {notes['text']}"
    if "share_a" in notes:
        words += (
            f", at {notes['words']} ends of words in each ({notes['share_a']:.0%} and {notes['share_b']:.0%} of tokens)"
        )
    return f"{words} ({notes['why_fewer']})" if "asked" in notes else words


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
