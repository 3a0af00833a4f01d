"""What a comparison shows in a notebook, and what goes to pandas, CSV and LaTeX."""

import base64
import copy
import csv
import io
import math
import pickle
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import nn

from dissimilarity import CKA, MutualKNN, Procrustes, compare, compare_many, comparison_figure, difference, select
from dissimilarity.comparison.result import ComparisonTable, ManyModelsTable, names_of
from dissimilarity.tables.export import as_html, as_latex, escape_latex
from dissimilarity.tables.result import ResultTable

HOSTILE = "<script>alert('x')</script> & \"50%_of\\#{a}~^$"


def samples(seed: int = 0, width: int = 6) -> torch.Tensor:
    return torch.randn(40, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sites(seed: int, count: int = 3) -> dict[str, torch.Tensor]:
    shared = samples()
    return {f"blocks.{i}.resid_post": shared + (1 + i) * samples(seed + i) / 3 for i in range(count)}


@pytest.fixture(scope="module")
def compared() -> Any:
    return compare(sites(1), sites(9), measures=[CKA(), Procrustes()])


@pytest.fixture(scope="module")
def many() -> Any:
    return compare_many({name: sites(seed) for seed, name in enumerate(("solu", "gelu", HOSTILE))}, measures=[CKA()])


class Reader(HTMLParser):
    """Reads the tags of a page, its pictures and the text of its cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pictures: list[dict[str, Any]] = []
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(dict(attrs))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] in ("td", "th"):
            self.cells[-1] += data


def test_a_notebook_shows_the_heat_map_and_the_matched_layers(compared: Any) -> None:
    page = Reader(compared._repr_html_())
    (picture,) = page.pictures
    assert base64.b64decode(picture["src"].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert "rows" in picture["alt"] and int(picture["width"]) > 200
    assert page.tags.count("tr") == 1 + 2 * 3  # matched pairs of both measures
    first = compared.to_pylist()[0]
    assert f"{first['value']:.3f}" in page.cells and page.cells[:4] == ["measure", "site_a", "site_b", "value"]


def test_it_is_the_table_of_arrow_that_it_was(compared: Any) -> None:
    assert compared.num_rows == len(compared) == 18 and compared.column_names[0] == "measure"
    assert compared["value"].to_pylist() == compared.to_pydict()["value"]
    cka = select(compared, measure="cka")
    assert isinstance(cka, ComparisonTable) and cka.num_rows == 9 and cka.names == compared.names
    assert isinstance(compared.slice(0, 2), ComparisonTable) and "measure: string" in repr(compared)
    plain = pa.table(compared)
    assert type(plain) is pa.Table and plain.schema == compared.schema
    values = compared.select(["measure", "value"])
    assert values == values.arrow and values.equals(values.slice(0)) and values.arrow == pa.table(values)
    for again in (copy.copy(compared), copy.deepcopy(compared), pickle.loads(pickle.dumps(compared))):
        assert again.select(values.column_names) == values and again.names == compared.names
    with pytest.raises(AttributeError, match="nothing"):
        _ = compared.nothing
    assert {"to_csv", "to_latex", "filter"} <= set(dir(compared))


def test_rows_say_where_the_interval_ends(compared: Any) -> None:
    rows, (first, *_) = compared.rows(), compared.to_pylist()
    assert [row["measure"] for row in rows] == ["cka"] * 3 + ["procrustes"] * 3
    assert all(row["site_a"] == row["site_b"] for row in rows)
    half = 2.0227 * first["stderr"]  # Student's t of 39 degrees of freedom
    assert (rows[0]["low"], rows[0]["high"]) == pytest.approx((first["value"] - half, first["value"] + half), abs=1e-4)


def test_csv_has_every_row_and_no_lists(compared: Any, tmp_path: Path) -> None:
    text = compared.to_csv(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == text
    read = list(csv.DictReader(io.StringIO(text)))
    assert [float(row["value"]) for row in read] == compared["value"].to_pylist()
    assert "influence" not in read[0] and {"site_a", "null", "calibrated"} <= read[0].keys()


def test_pandas_has_everything(compared: Any) -> None:
    frame = compared.to_pandas()
    assert list(frame.columns) == compared.column_names and len(frame) == 18


def test_without_pandas_it_says_what_to_do(compared: Any) -> None:
    code = """
import sys
class Without:
    def find_spec(self, name, *rest):
        if name == "pandas":
            raise ModuleNotFoundError("No module named 'pandas'")
sys.meta_path.insert(0, Without())
import pyarrow as pa
from dissimilarity.tables.result import ResultTable
try:
    ResultTable(pa.table({"a": [1]})).to_pandas()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install pandas" in done.stdout and "to_csv()" in done.stdout


def test_latex_is_a_booktabs_table(compared: Any, tmp_path: Path) -> None:
    text = compared.to_latex(tmp_path / "a.tex")
    assert (tmp_path / "a.tex").read_text() == text
    lines = text.splitlines()
    assert lines[0] == r"\begin{tabular}{lllrrrrr}" and lines[-1] == r"\end{tabular}"
    assert [line for line in lines if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert lines[2].startswith(r"measure & site\_a & site\_b & value") and len(lines) == 6 + 6
    with_p = compare(sites(1), sites(9), measures=[CKA()], nulls=20).to_latex()
    assert r"null & p & calibrated" in with_p


def test_names_cannot_break_a_page_or_a_document(many: Any) -> None:
    page = many._repr_html_()
    assert "<script" not in page and HOSTILE in Reader(page).cells
    document = many.to_latex()
    body = document.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert r"\textless{}script\textgreater{}" in body and r"\textbackslash{}\#\{a\}" in body
    commands = r"\\(text[a-z]+\{\}|[&%$#_{}]|\\)"
    rest = re.sub(commands, "", body)
    assert not re.search(r"[\\%$#_{}~^<>\"]", rest) and rest.count("&") == 4 * 3
    assert escape_latex("a\nb") == "a b"
    assert as_html([{"<i>": "\"'"}]) == (
        "<table><thead><tr><th>&lt;i&gt;</th></tr></thead><tbody><tr><td>&quot;&#x27;</td></tr></tbody></table>"
    )
    assert r"50\% \& more" in as_latex([{"name": "50% & more"}])


def test_many_models_show_a_tree_and_their_distances(many: Any) -> None:
    assert isinstance(many, ManyModelsTable)
    page = Reader(many._repr_html_())
    assert len(page.pictures) == 1 and page.tags.count("tr") == 4
    (row, *_) = many.rows()
    at_depth = [r["dissimilarity"] for r in select(many, model_a="solu", model_b="gelu").to_pylist()[::4]]
    assert row["dissimilarity"] == pytest.approx(sum(at_depth) / 3) and row["pairs_of_sites"] == 3
    some = many.filter(pa.array([row["model_b"] == "gelu" for row in many.to_pylist()]))
    assert len(Reader(some._repr_html_()).pictures) == 1
    apart = {"a": sites(1), "b": sites(2), "c": sites(3)}
    incomplete = compare_many(apart, measures=[CKA()], couples=[("a", "b"), ("b", "c")])
    assert not Reader(incomplete._repr_html_()).pictures and Reader(incomplete._repr_html_()).tags.count("tr") == 3


def test_a_difference_shows_its_rows(compared: Any) -> None:
    result = difference(select(compared, site_b="blocks.2.resid_post"), select(compared, site_b="blocks.0.resid_post"))
    assert isinstance(result, ResultTable)
    page = Reader(result._repr_html_())
    assert page.tags.count("tr") == 1 + 6 and {"difference", "stderr", "low", "high", "p"} <= set(page.cells)
    assert result.to_latex().count(r"\\") == 7 and result.to_csv().count("\n") == 7


def test_nothing_and_not_a_number_are_shown_for_what_they_are() -> None:
    few = compare({"x": samples()[:2]}, {"y": samples(1)[:2]}, measures=[MutualKNN()])
    assert math.isnan(few["value"][0].as_py())
    page = Reader(few._repr_html_())
    assert "-" in page.cells and "nan" not in page.cells
    empty = few.slice(0, 0)
    assert "<table>" in empty._repr_html_() and empty.to_csv() == "\n" and "tabular" in empty.to_latex()


def test_long_tables_are_cut_in_a_notebook() -> None:
    page = as_html([{"a": number} for number in range(100)])
    assert page.count("<tr>") == 61 and "and 40 more rows" in page


def test_models_are_named_in_the_figure(tmp_path: Path) -> None:
    class Named(nn.Module):
        config = type("Config", (), {"name_or_path": "org/model-7b"})()

    assert names_of(Named(), tmp_path / "x.npy") == ("model-7b", "x.npy")
    assert names_of(Named(), Named()) == names_of({}, {}) == ("a", "b")
    assert (
        comparison_figure(compare(sites(1), sites(2), measures=[CKA()]), "one", "two").get_supxlabel().startswith("two")
    )
