"""The summary of the study `export`."""

from collections.abc import Sequence
from typing import Any

from studies.common.format import table_head, table_row


def summary(records: Sequence[dict[str, Any]], to: str, sequences: int, tolerance: float) -> str:
    """Return the summary in Markdown.

    Args:
        records: one per model.
        to: the format.
        sequences: number of random sequences on which logits were compared.
        tolerance: largest difference that was allowed.
    """
    lines = [
        f"# Models as {to}",
        "",
        f"Each model was read back from its files. The table shows the largest difference between logits on "
        f"{sequences} random sequences (divided by their standard deviation if that is above 1); up to {tolerance:g} "
        "is allowed.",
        "",
        *table_head("model", "reference", "logits differ by", "read by"),
    ]
    for record in records:
        difference = f"{record['largest_difference']:.1e}"
        lines.append(table_row(record["model"], f"`{record['reference']}`", difference, record["reader"]))
    return "\n".join(lines) + "\n"
