"""Rows as CSV, LaTeX and HTML, for readers: in files, in a terminal, and in a notebook."""

import csv
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]

LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "\n": " "},
}
"""What stands for letters that LaTeX reads as commands, or prints as others."""


def as_csv(rows: Rows) -> str:
    r"""Return rows as CSV; lists are left out.

    Examples:
        >>> as_csv([{"measure": "cka", "value": 0.5, "influence": [0.1]}])
        'measure,value\ncka,0.5\n'
    """
    names = _columns(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_latex(rows: Rows, columns: Sequence[str] = ()) -> str:
    r"""Return rows as a LaTeX table with the rules of booktabs, numbers to three digits.

    Args:
        rows: the rows.
        columns: names of the columns to show; by default all but lists.

    Examples:
        >>> print(as_latex([{"model": "R&D_1", "value": 0.5}]), end="")
        \begin{tabular}{lr}
        \toprule
        model & value \\
        \midrule
        R\&D\_1 & 0.500 \\
        \bottomrule
        \end{tabular}
    """
    names = list(columns) or _columns(rows)
    sides = "".join("l" if any(isinstance(row[name], str) for row in rows) else "r" for name in names)
    lines = [" & ".join(map(escape_latex, names)), *(" & ".join(_cells(row, names, escape_latex)) for row in rows)]
    body = [f"{line} \\\\" for line in lines]
    head = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", body[0], r"\midrule"]
    return "\n".join([*head, *body[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_html(rows: Rows, columns: Sequence[str] = (), most: int = 60) -> str:
    """Return rows as an HTML table, numbers to three digits.

    Args:
        rows: the rows.
        columns: names of the columns to show; by default all but lists.
        most: more rows are counted below the table.

    Examples:
        >>> as_html([{"model": "<b>"}])
        '<table><thead><tr><th>model</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    names = list(columns) or _columns(rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in _cells(row, names, html.escape))}</tr>" for row in rows[:most]
    )
    rest = f"<p>and {len(rows) - most:,} more rows</p>" if len(rows) > most else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def escape_latex(text: str) -> str:
    r"""Return a text in which LaTeX finds no commands.

    Examples:
        >>> escape_latex("50% of <a_b>")
        '50\\% of \\textless{}a\\_b\\textgreater{}'
    """
    return re.sub(r"[\\&%$#_{}~^<>|\"\n]", lambda letter: LATEX[letter.group()], text)


def cell(value: Any) -> str:
    """Return a value as a reader sees it in a table; a dash for a number that there is not.

    Examples:
        >>> cell(0.12345), cell(2e-7), cell(math.nan), cell(12)
        ('0.123', '2.0e-07', '-', '12')
    """
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    if not math.isfinite(value):
        return "-"
    return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:z.3f}"


def two_digits(value: int | float) -> str:
    """Return a number of any size with two digits or more, as a power of ten below 0.01 and from 10,000 on.

    Examples:
        >>> [two_digits(number) for number in (0.0, 4.7e-08, 0.012, 0.996, 1.04, 48.2, 1234.5, 12345.6, math.nan)]
        ['0', '4.7e-08', '0.012', '1.0', '1.0', '48', '1234', '1.2e+04', '-']
    """
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    rounded = f"{value:.1e}"
    if value == 0:
        return "0"
    if not 0.01 <= abs(value) < 9999.5:
        return rounded
    return f"{value:.{max(0, 1 - int(rounded[-3:]))}f}"


def _columns(rows: Rows) -> list[str]:
    return [name for name, value in rows[0].items() if not isinstance(value, (list, tuple))] if rows else []


def _cells(row: Mapping[str, Any], names: Sequence[str], escape: Any) -> list[str]:
    return [escape(cell(row[name])) for name in names]
