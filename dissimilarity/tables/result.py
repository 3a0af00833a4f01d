"""A table that shows itself in a notebook and goes to pandas, CSV and LaTeX."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pyarrow as pa

from dissimilarity.tables.export import as_csv, as_html, as_latex


class ResultTable:
    """A pyarrow table for readers.

    It has the attributes and methods of ``pyarrow.Table``, and whatever takes tables of Arrow takes it:
    ``pyarrow.table(result)``, ``pandas``, ``polars`` and ``duckdb``. Tables made from it are of the same kind.

    Attributes:
        arrow: the table itself, for functions that take nothing else.

    Examples:
        >>> result = ResultTable(pa.table({"measure": ["cka"], "value": [0.5]}))
        >>> result.num_rows, result["value"][0].as_py()
        (1, 0.5)
    """

    def __init__(self, table: pa.Table) -> None:
        self.arrow = table

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return all rows as CSV, without lists such as influences, and write it to a path if one is given."""
        return _written(as_csv(self.arrow.to_pylist()), path)

    def to_latex(self, path: str | Path | None = None) -> str:
        """Return the rows that a reader looks at as a LaTeX table (booktabs); write it to a path if one is given."""
        return _written(as_latex(self.rows(), self._columns()), path)

    def to_pandas(self, **options: Any) -> Any:
        """Return all rows as a ``pandas.DataFrame``.

        Args:
            options: as for ``pyarrow.Table.to_pandas``.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            return self.arrow.to_pandas(**options)
        except ImportError as error:
            raise ImportError(
                "to_pandas() needs pandas, which is not installed: type `pip install pandas`, or take to_pylist() or "
                "to_csv()"
            ) from error

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows that a reader looks at."""
        return self.arrow.to_pylist()

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return as_html(self.rows(), self._columns())

    def _columns(self) -> list[str]:
        """Return the columns that a notebook and LaTeX show; none for all but lists."""
        return []

    def _again(self, table: pa.Table) -> "ResultTable":
        """Return another table of this kind."""
        return type(self)(table)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "arrow":  # asked for by copy and pickle before there is a table
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = getattr(self.arrow, name)
        return self._method(value) if callable(value) else value

    def _method(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method of the table that gives tables of this kind."""

        @wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            result = method(*map(as_arrow, arguments), **options)
            return self._again(result) if isinstance(result, pa.Table) else result

        return call

    def __getitem__(self, key: Any) -> Any:
        return self.arrow[key]

    def __len__(self) -> int:
        return len(self.arrow)

    def __eq__(self, other: object) -> bool:
        return self.arrow == as_arrow(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType] - like pyarrow's

    def __repr__(self) -> str:
        return f"{type(self).__name__}\n{self.arrow!r}"

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.arrow)})

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.arrow.__arrow_c_stream__(requested_schema)


AnyTable = pa.Table | ResultTable


def as_arrow(table: Any) -> Any:
    """Return the table of Arrow in a result, and anything else as it is."""
    return table.arrow if isinstance(table, ResultTable) else table


def _written(text: str, path: str | Path | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
