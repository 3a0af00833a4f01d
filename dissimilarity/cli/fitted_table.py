"""Tables that fit the terminal: names are shortened where they agree, and columns are dropped before values wrap."""

import re
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import groupby
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

UNLIMITED = 10_000
"""Above the width of every table, in characters."""
BETWEEN = "-/@ "
"""Marks between the parts of a name."""
WITHIN = BETWEEN + "_"
"""Marks between the words of a name, too."""
LETTERS = 36
"""Letters of a name that is never broken."""
LEAST = 24
"""Letters of each line of a broken name, at least."""
SHARE = 0.45
"""Part of the terminal for broken names: 80 characters also have space for the state, steps and loss of a run."""
NAMED = 6
"""Columns that the line below a table names."""


class FittedTable(Table):
    """A table that becomes narrower where it is wider than the terminal.

    First names are shortened where they agree, or long ones broken over lines, then columns are left out, and a line
    below says which. Then names are shortened where their words agree, and broken ones get the space that is left.
    What is still too wide is wider than the terminal; printed with `crop=False`, nothing is cut.

    Args:
        title: Shown above the table.
        names: Headers of the columns of names that may be shortened.
        drop: Headers of the columns that may be left out, in that order.
        whole: Headers of the columns of names that are broken over lines, and not shortened.
        captioned: Headers of the columns that the caption is about; without any of them, there is none.
    """

    def __init__(
        self,
        title: str,
        names: Sequence[str] = (),
        drop: Sequence[str] = (),
        whole: Sequence[str] = (),
        captioned: Sequence[str] = (),
    ) -> None:
        super().__init__(title=title, title_justify="left")
        self._names = names
        self._whole = whole
        self._drop = drop
        self._captioned = captioned

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType | Segment]:
        """Render the widest form that fits."""
        table = copy(self)
        table.columns = [copy(column) for column in self.columns]
        for column in table.columns:
            column.no_wrap = True
        table.title = None
        letters = max(LEAST, int(SHARE * options.max_width))
        if is_too_wide := not table._fits(console, options):
            table._shorten_names()
            table._break_names(letters)
        dropped = []
        for header in self._drop:
            if table._fits(console, options):
                break
            table.columns = [column for column in table.columns if column.header != header]
            for index, column in enumerate(table.columns):
                column._index = index  # by which rich finds the first and the last, whose padding differs
            dropped.append(header)
        if not table._fits(console, options):
            table._shorten_names(WITHIN)
        if is_too_wide:
            table._break_names(letters + max(0, options.max_width - table._whole_width(console, options)))
        if self._captioned and {*self._captioned} <= {*dropped}:
            table.caption = None
        if self.title:
            yield Text.from_markup(str(self.title), style="italic")
        whole = max(options.max_width, table._whole_width(console, options))
        yield from Table.__rich_console__(table, console, options.update(max_width=whole))
        present = [str(Text.from_markup(str(column.header))) for column in self.columns if column.header in dropped]
        if present:
            more = f" and {len(present) - NAMED} more" if len(present) > NAMED else ""
            names = (name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…" for name in present[:NAMED])
            yield Text(f"a wider terminal also shows: {', '.join(names)}{more}", style="dim")

    def _fits(self, console: Console, options: ConsoleOptions) -> bool:
        return self._whole_width(console, options) <= options.max_width

    def _whole_width(self, console: Console, options: ConsoleOptions) -> int:
        return Table.__rich_measure__(self, console, options.update(max_width=UNLIMITED)).maximum

    def _shorten_names(self, marks: str = BETWEEN) -> None:
        columns = [column for column in self.columns if column.header in self._names]
        cells = [str(cell) for column in columns for cell in column._cells]
        short = dict(zip(cells, shortened(cells, marks), strict=True))
        for column in columns:
            column._cells = [short[str(cell)] for cell in column._cells]

    def _break_names(self, letters: int) -> None:
        """Break names over lines of a number of letters; those that are broken are broken again."""
        for column in self.columns:
            if column.header in self._whole:
                names = [Text.from_markup(str(cell)).plain.replace("\n", "") for cell in column._cells]
                lines = [[name] if cell_len(name) <= LETTERS else chop_cells(name, letters) for name in names]
                column._cells = [escape("\n".join(parts)) for parts in lines]


def shortened(names: Sequence[str], marks: str = BETWEEN) -> list[str]:
    """Return names with … for the parts that all of them share; what differs stays.

    Examples:
        >>> shortened(["gelu-w64-d6-s0", "gelu-w64-d6-s1", "gelu-w64-d2-s1"])
        ['…d6-s0', '…d6-s1', '…d2-s1']
        >>> shortened(["runs/base-s0", "runs/base-s0-long"])
        ['…s0', '…s0-long']
        >>> shortened(["my_runs_s0_of_may", "my_runs_s1_of_may"], WITHIN)
        ['…s0_…', '…s1_…']
    """
    distinct = list(dict.fromkeys(name for name in names if name))
    if len(distinct) < 2:
        return list(names)
    parts = {name: re.findall(rf"[^{marks}]+[{marks}]*|[{marks}]+", name) for name in distinct}
    shortest = min(map(len, parts.values()))
    agreeing = [len(set(column)) == 1 for column in zip(*parts.values(), strict=False)]
    start = min(agreeing.index(False) if False in agreeing else shortest, shortest - 1)
    reverse = [len(set(column)) == 1 for column in zip(*(part[::-1] for part in parts.values()), strict=False)]
    end = min(reverse.index(False) if False in reverse else shortest, shortest - 1 - start)
    short = {"": ""}
    for name, words in parts.items():
        inner = words[start : len(words) - end]
        if len({len(part) for part in parts.values()}) == 1:
            inner = list(_collapsed(inner, agreeing[start:]))
        short[name] = ("…" if start else "") + "".join(inner) + ("…" if end else "")
    return [short[name] for name in names]


def _collapsed(words: Sequence[str], agreeing: Sequence[bool]) -> Iterator[str]:
    """Yield words, with … for a run of those that agree and are longer than that."""
    for agrees, run in groupby(zip(words, agreeing, strict=False), key=lambda pair: pair[1]):
        text = "".join(word for word, _ in run)
        yield "…" if agrees and len(text) > 3 else text


def inner_first(columns: Sequence[Any]) -> list[Any]:
    """Return the columns between the first and the last in an order in which leaving them out keeps the rest even.

    Examples:
        >>> inner_first([0, 1, 2, 3, 4])
        [1, 3, 2]
    """
    inside = list(columns[1:-1])
    return [*inside[::2], *inside[1::2]]
