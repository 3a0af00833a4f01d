"""The tables that ``compare`` and ``compare_many`` return: they show their heat map or tree, and what is in it."""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from dissimilarity.capture.sites import LOGITS
from dissimilarity.inference.coverage import PROBE_TEXT
from dissimilarity.inference.jackknife import half_width
from dissimilarity.moments.cross import SitePair
from dissimilarity.tables.curves import distinct, select
from dissimilarity.tables.equal_depth import at_equal_depth
from dissimilarity.tables.export import as_html
from dissimilarity.tables.result import ResultTable


class ComparisonTable(ResultTable):
    """The table of ``compare``. In a notebook, it shows the heat map and the pairs of sites at equal relative depth.

    Args:
        table: the table.
        names: names of the two models, for the figure.
        coverage: what its intervals cover, in one sentence.

    Examples:
        >>> row = {"measure": "cka", "site_a": "x", "site_b": "y", "value": 0.5, "stderr": 0.1, "n_units": 8}
        >>> rows = ComparisonTable(pa.Table.from_pylist([row]), ("a", "b")).rows()
        >>> round(rows[0]["low"], 2), round(rows[0]["high"], 2)
        (0.26, 0.74)
    """

    def __init__(self, table: pa.Table, names: tuple[str, str] = ("a", "b"), coverage: str = PROBE_TEXT) -> None:
        super().__init__(table)
        self.names, self.coverage = names, coverage

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per measure and matched pair of sites, with the ends of its 95% interval."""
        rows = without_lists(self.arrow)
        matched = _matched(rows)
        order = distinct(self.arrow, "measure")
        at_matched = [with_ends(row) for row in rows if (row["site_a"], row["site_b"]) in matched]
        return sorted(at_matched, key=lambda row: order.index(row["measure"]))

    def figure(self, **options: Any) -> Any:
        """Return the figure of all pairs of sites.

        Args:
            options: as for ``comparison_figure``.
        """
        from dissimilarity.figures.comparison import comparison_figure  # matplotlib, which a table need not load

        return comparison_figure(self.arrow, *self.names, **options)

    def _repr_html_(self) -> str:
        if not self.arrow.num_rows:
            return super()._repr_html_()
        words = f"Heat map of {self.names[0]} (rows) and {self.names[1]} (columns), by measure"
        return _picture(self.figure(), words) + as_html(self.rows(), self._columns()) + _note(self.coverage)

    def _columns(self) -> list[str]:
        return shown_columns(self.rows())

    def _again(self, table: pa.Table) -> ResultTable:
        return type(self)(table, self.names, self.coverage)


class ManyModelsTable(ResultTable):
    """The table of ``compare_many``. In a notebook, it shows a tree and a map of the models, and their distances."""

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per measure and pair of models: the mean dissimilarity over sites at equal relative depth."""
        rows = []
        for measure in distinct(self.arrow, "measure"):
            by_models: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for row in without_lists(select(self.arrow, measure=measure)):
                by_models.setdefault((row["model_a"], row["model_b"]), []).append(row)
            for (a, b), of_pair in by_models.items():
                matched = _matched(of_pair)
                values = [row["dissimilarity"] for row in of_pair if (row["site_a"], row["site_b"]) in matched]
                entry = {"measure": measure, "model_a": a, "model_b": b, "pairs_of_sites": len(values)}
                rows.append({**entry, "dissimilarity": math.fsum(values) / len(values)})
        return rows

    def figure(self, **options: Any) -> Any:
        """Return the figure of the models, a tree and a map per measure.

        Args:
            options: as for ``models_figure``.

        Raises:
            ValueError: a pair of models, or its value, is missing.
        """
        from dissimilarity.figures.models import models_figure  # as above

        return models_figure(self.arrow, **options)

    def _repr_html_(self) -> str:
        try:
            picture = _picture(self.figure(), "Tree and map of the models by their distances, one row per measure")
        except ValueError:  # a pair of models was not compared
            picture = ""
        return picture + super()._repr_html_()


def names_of(a: Any, b: Any) -> tuple[str, str]:
    """Return names of two sources: those of files or of their weights, ``a`` and ``b`` if they have none.

    Examples:
        >>> names_of("runs/solu.safetensors", {"x": None}), names_of("x/a.npy", "y/a.npy")
        (('solu.safetensors', 'b'), ('a', 'b'))
    """
    names = [_name(a) or "a", _name(b) or "b"]
    return (names[0], names[1]) if names[0] != names[1] else ("a", "b")


def _name(source: Any) -> str:
    name = source if isinstance(source, (str, Path)) else getattr(getattr(source, "config", None), "name_or_path", "")
    return Path(name).name if isinstance(name, (str, Path)) else ""


def shown_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns that a reader looks at, of those that the rows have: p values where there are some."""
    names = ["measure", "site_a", "site_b", "value", "low", "high", "null", "calibrated"]
    if any(math.isfinite(row.get("p", math.nan)) for row in rows):
        names.insert(names.index("null") + 1, "p")
    return [name for name in names if not rows or name in rows[0]]


def without_lists(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table without influences, which take most of the time to turn into Python."""
    return table.drop_columns([field.name for field in table.schema if pa.types.is_list(field.type)]).to_pylist()


def _matched(rows: Sequence[Mapping[str, Any]]) -> set[SitePair]:
    """Return the pairs of sites at equal relative depth, and the outputs."""
    pairs = [(row["site_a"], row["site_b"]) for row in rows]
    return {*(pairs[place] for place in at_equal_depth(pairs)), (LOGITS, LOGITS)}


def with_ends(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the ends of the 95% interval of its value, `low` and `high`."""
    half = float(half_width(row.get("stderr", math.nan), row.get("n_units", 0)))
    return {**row, "low": row["value"] - half, "high": row["value"] + half}


def _picture(figure: Any, words: str) -> str:
    """Return a figure as HTML that holds it, with words for those who cannot see it."""
    data, size = figure._repr_png_()
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<img src="{source}" width="{size["width"]}" height="{size["height"]}" alt="{html.escape(words)}">'


def _note(sentence: str) -> str:
    return f"<p><small>{html.escape(sentence)}</small></p>"
