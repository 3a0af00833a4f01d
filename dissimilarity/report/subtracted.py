"""The section of a page on two models that are subtracted element by element, from the summary of their comparison."""

from collections.abc import Mapping
from html import escape
from typing import Any

from dissimilarity.capture.site_names import site_name
from dissimilarity.report.elements import is_number, table
from dissimilarity.tables.export import two_digits

COLUMNS = {
    "relative_error": ("relative error", two_digits),
    "noise": ("by rounding", two_digits),
    "cosine": ("cosine", "{:.6f}".format),
    "largest": ("largest difference", two_digits),
}
"""Keys of rows of the summary, with their names, and how numbers are written; those of the terminal."""
OUTPUTS = ("kl", "kl_high", "largest")


def subtracted(summary: Mapping[str, Any]) -> str:
    """Return the differences of activations and predictions; nothing for models that cannot be subtracted.

    Args:
        summary: summary.json of a comparison.
    """
    rows = summary.get("rows")
    lines = {}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and all(is_number(row.get(key)) for key in COLUMNS):
            name = site_name(str(row.get("site_a")), str(row.get("site_b")))
            lines[name] = [form(row[key]) for key, (_, form) in COLUMNS.items()]
    if not lines:
        return ""
    titles = ["site", *(title for title, _ in COLUMNS.values())]
    content = table("subtracted", titles, [[name, *cells] for name, cells in lines.items()])
    words = [_of_predictions(summary.get("outputs")), str(summary.get("rounding") or "")]
    note = escape(" ".join(filter(None, words)))
    return f'<section><h2>Element by element</h2>{content}<p class="soft">{note}</p></section>'


def _of_predictions(outputs: Any) -> str:
    """Say how far the predictions of the two are apart."""
    if not isinstance(outputs, dict) or not all(is_number(outputs.get(key)) for key in OUTPUTS):
        return ""
    kl, high, largest = (two_digits(outputs[key]) for key in OUTPUTS)
    return (
        f"Predictions: KL divergence {kl} nats, its 99.9th percentile {high}, largest difference of two logits "
        f"{largest}."
    )
