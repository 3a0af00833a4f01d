"""Texts that differ most are on the page, each token with its influence, and damaged ones are a message."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dissimilarity.tables.colored_text import FILE, colored_text, write_texts
from dissimilarity.tables.influential_text import influential_text
from tests.helpers.report_folders import SITES, curve_row, page_of

WORDS = ["<b>", "the", "\x1b[31m", "cat", "sat", "\n", "on", "mats"]
TOKENS = np.arange(8).reshape(2, 4)
ROW = {"token_influence": [0.1, -0.2, 0.05, 0.4, 0.3, 0.01], "token_index": [0, 1, 3, 4, 5, 7]}


def decode(tokens: list[int]) -> str:
    return "".join(WORDS[token] for token in tokens)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "compare"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([curve_row(0, site, site) for site in SITES]), folder / "table.parquet")
    write_texts([colored_text(ROW, TOKENS, decode, "cka at <i>", top=2)], folder)
    return folder


def test_each_token_has_its_influence(folder: Path) -> None:
    (text,) = json.loads((folder / FILE).read_text())["texts"]
    first, second = text["sequences"]
    assert (first["sequence"], second["sequence"]) == (1, 0)
    assert first["influence"] == pytest.approx(influential_text(ROW, TOKENS, decode).sequences[0].influence)
    assert first["pieces"] == [["sat", 0.4], ["\n", 0.3], ["on", None], ["mats", 0.01]]
    assert [value for _, value in second["pieces"]] == [0.1, -0.2, None, 0.05]
    page = page_of(folder)
    spans = [attributes for tag, attributes in page.elements if tag == "span" and "title" in attributes]
    assert [span["title"] for span in spans] == ["+0.4", "+0.3", "+0.01", "+0.1", "-0.2", "+0.05"]
    assert spans[0]["style"] == "background: rgba(202, 0, 32, 0.65)"
    assert spans[4]["style"] == "background: rgba(5, 113, 176, 0.33)"
    assert not {"b", "i"} & {tag for tag, _ in page.elements} and "<b>the" in page.text and "\x1b" not in page.source


@pytest.mark.parametrize(
    "damage", ['{"texts": 3}', '{"texts": [{"title": "a"}]}', "[", '{"texts": [{"sequences": "x"}]}']
)
def test_another_form_is_a_message(folder: Path, damage: str) -> None:
    (folder / FILE).write_text(damage)
    page = page_of(folder)
    assert FILE in page.text and SITES[0] in page.text


def test_texts_of_an_earlier_command_are_removed(folder: Path) -> None:
    write_texts([], folder)
    write_texts([], folder)
    assert not (folder / FILE).exists() and "Which text differs" not in page_of(folder).text
