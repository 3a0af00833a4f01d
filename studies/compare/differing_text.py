"""Which text makes two models differ most, in the study `compare`: lines of the summary and figures."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure
from torch import Tensor

from dissimilarity.capture.site_names import site_name
from dissimilarity.figures.style import file_name
from dissimilarity.figures.text import text_figure
from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.titles import dissimilarity_title
from dissimilarity.probe.alignment import Alignment
from dissimilarity.tables.colored_text import ColoredText, colored_text
from dissimilarity.tables.curves import select
from dissimilarity.tables.influential_text import Passage, influential_text
from dissimilarity.tables.token_texts import printable
from studies.common.format import as_code, table_head, table_row
from studies.common.inputs import SharedProbe, Subject
from studies.compare.text import matched_records

TOP = 5
"""Sequences and tokens of each measure and pair of models."""
CHARACTERS = 60
"""Characters of a passage in the summary."""


@dataclass(frozen=True)
class TextOfModel:
    """The tokens that a model read, and how they become text.

    Attributes:
        tokens: (sequences, positions).
        tokenizer: the tokenizer of these tokens.
        mask: True at real positions; None if all are.
    """

    tokens: Tensor
    tokenizer: Any
    mask: Tensor | None = None


def text_of(probe: SharedProbe, subject: Subject, inputs: Tensor | Alignment | None) -> TextOfModel | None:
    """Return the text of a comparison as its first model read it; None for saved activations alone."""
    if isinstance(inputs, Alignment):
        own = subject.label in probe.same_tokenizer or subject.reference is None
        tokenizer = probe.tokenizer if own else subject.reference.tokenizer  # pyright: ignore
        return TextOfModel(inputs.a.tokens, tokenizer, inputs.a.mask)
    return None if inputs is None or probe.tokenizer is None else TextOfModel(inputs, probe.tokenizer, probe.mask)


def farthest(table: pa.Table, measure: Measure) -> dict[str, Any] | None:
    """Return the row of a measure at the pair of sites of equal depth where the models differ most; None if none is."""
    rows = matched_records(select(table, measure=measure.label).to_pylist())
    rows = [row for row in rows if math.isfinite(row["dissimilarity"]) and row["token_influence"]]
    return max(rows, key=lambda row: row["dissimilarity"], default=None)


def differing_text(
    tables: Mapping[tuple[str, str], pa.Table],
    texts: Mapping[tuple[str, str], TextOfModel | None],
    measures: Sequence[Measure],
) -> tuple[list[str], dict[str, Figure], list[ColoredText]]:
    """Return lines of the summary, figures of text colored by influence by file name, and these texts for the page.

    Args:
        tables: the table of each pair of models, with influences.
        texts: the text of each pair.
        measures: the measures of the study.
    """
    lines = [
        "",
        "## Which text differs",
        "",
        "The influence of a token is how much the dissimilarity at a pair of sites rises if the token counts more:",
        "positive = it makes the models look more different. Those of a sequence add up. Each measure at the pair of",
        "sites of equal depth where the models differ most.",
    ]
    drawn: dict[str, Figure] = {}
    colored: list[ColoredText] = []
    for (a, b), table in tables.items():
        text = texts[a, b]
        if text is None:
            lines += ["", f"{a} and {b}: no text, because both are saved activations."]
            continue
        for measure in measures:
            row = farthest(table, measure)
            if row is None:
                continue
            passages = influential_text(row, text.tokens, _decoder(text), TOP, mask=text.mask)
            place = f"{dissimilarity_title(measure.label)} of {a} and {b} at {site_name(row['site_a'], row['site_b'])}"
            lines += ["", f"### {place}", "", *_table("sequence", passages.sequences)]
            lines += ["", *_table("token", passages.tokens)] if passages.tokens else []
            name = file_name(["text", a, b, measure.label], drawn)
            drawn[name] = text_figure(row, text.tokens, _decoder(text), TOP, place, text.mask)
            colored.append(colored_text(row, text.tokens, _decoder(text), place, TOP, text.mask))
    return lines, drawn, colored


def _decoder(text: TextOfModel) -> Any:
    return lambda tokens: text.tokenizer.decode(tokens, skip_special_tokens=False)


def _table(kind: str, passages: Sequence[Passage]) -> list[str]:
    lines = table_head(kind, "influence", "text")
    for passage in passages:
        if passage.position is None:
            place, shown = str(passage.sequence), _beginning(passage.text, CHARACTERS)
            shown += "..." if len(passage.text) > CHARACTERS else ""
        else:
            place = f"{passage.sequence}, {passage.position}"
            before = _beginning(passage.before[::-1], CHARACTERS // 2)[::-1]
            after = _beginning(passage.after, CHARACTERS // 2)
            shown = f"{before}【{passage.text}】{after}"
        shown = " ".join(printable(shown).split())
        lines.append(table_row(place, f"{passage.influence:+.2g}", as_code(shown) if shown else ""))
    return lines


def _beginning(text: str, most: int) -> str:
    """Return the whole words within the first characters of a text, or where there are no spaces, these characters."""
    if len(text) <= most or text[most].isspace():
        return text[:most]
    return re.sub(r"\s+\S*$", "", text[:most])
