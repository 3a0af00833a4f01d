"""Elements of a page: tables that can be sorted and searched, lists to choose from, numbers."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

DASH = "–"
LONG = 50
"""Characters from which a cell gets the width for a text."""


def table(name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], numbered: bool = False) -> str:
    """Return a table that can be searched, and sorted by its heads.

    Args:
        name: its id.
        columns: names of the columns.
        rows: cells: numbers, text, None, or (text, link).
        numbered: whether rows carry their number, for figures that show what a search leaves.
    """
    kinds = [
        "number" if all(is_number(row[index]) or row[index] is None for row in rows) else ""
        for index in range(len(columns))
    ]
    titles = "".join(
        f'<th scope="col" class="{kind}"><button type="button">{escape(title)}</button></th>'
        for title, kind in zip(columns, kinds, strict=True)
    )
    numbers = [f' data-run="{index}"' if numbered else "" for index in range(len(rows))]
    body = "".join(
        f"<tr{number}>{''.join(map(_cell, row, kinds))}</tr>" for number, row in zip(numbers, rows, strict=True)
    )
    search = (
        f'<div class="row"><label>search <input type="search" aria-controls="{name}" data-count="{name}-count">'
        f'</label> <span class="soft" id="{name}-count">{len(rows):,}</span></div>'
    )
    return (
        f'{search}<div class="scroll" tabindex="0"><table class="sortable" id="{name}">'
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def select(name: str, label: str, items: Sequence[str], chosen: int | None, special: str = "") -> str:
    """Return a list to choose one item from, or all (None).

    Args:
        name: its id.
        label: what stands before it.
        items: texts; the value of each is its number.
        chosen: number of the item that is chosen first.
        special: text of another choice, which is chosen first; its value is its first word.
    """
    options = [_option(special.split()[0], special, False)] if special else []
    options += [_option("", "all", chosen is None and not special)]
    options += [_option(str(index), item, index == chosen) for index, item in enumerate(items)]
    return f'<label>{label} <select id="{name}">{"".join(options)}</select></label>'


def facts(entries: Mapping[str, Any]) -> str:
    """Return names and texts; those without a text are left out."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(text))}</dd>" for name, text in entries.items() if text)
    return f"<dl>{lines}</dl>" if lines else ""


def number(value: int | float | None) -> str:
    """Return a number as a reader wants to see it.

    Examples:
        >>> number(12345), number(0.123456), number(float("nan"))
        ('12,345', '0.1235', '–')
    """
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def is_number(value: Any) -> bool:
    """Return whether a value is a number and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any, kind: str) -> str:
    if isinstance(value, tuple):
        text, link = value
        return f'<td><a href="{escape(link)}">{escape(text)}</a></td>' if link else f"<td>{escape(text)}</td>"
    if kind == "number":
        known = repr(value) if value is not None and math.isfinite(value) else ""
        return f'<td class="number" data-value="{known}">{number(value)}</td>'
    text = "" if value is None else str(value)
    return f"<td{' class=long' if len(text) > LONG else ''}>{escape(text)}</td>"


def _option(value: str, text: str, chosen: bool) -> str:
    return f'<option value="{value}"{" selected" if chosen else ""}>{escape(text)}</option>'
