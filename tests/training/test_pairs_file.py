"""Tables of labeled texts: quotes, columns, splits by column, a validation split by text, and rejected files."""

import csv
import gzip
import json
from collections.abc import Callable

import pyarrow as pa
import pytest
from pyarrow import parquet

from data.examples import Example
from data.examples.pairs_file import PairsFile

HEADER = "premise\thypothesis\tgold_label\n"


@pytest.fixture
def write(tmp_path) -> Callable[[str, str], str]:
    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        return str(tmp_path / name)

    return write


def test_quotes_in_a_tsv_file_are_text(write):
    path = write("a.tsv", HEADER + 'He said "no\t"Yes", she said.\tneutral\nIt\'s "so".\t"\tentailment\r\n')
    assert PairsFile({"train": path, "val": path}).splits()["train"] == [
        Example('He said "no', '"Yes", she said.', "neutral"),
        Example('It\'s "so".', '"', "entailment"),
    ]


def test_quotes_in_a_csv_file_are_quotes_and_a_byte_order_mark_is_not_part_of_the_header(write):
    path = write("a.csv", '\ufefftext,y\n"one, two\nthree ""four""",a\n\nfive,b\n')
    rows = PairsFile({"train": path, "val": path}, text="text", pair=None, label="y").splits()["train"]
    assert rows == [Example('one, two\nthree "four"', None, "a"), Example("five", None, "b")]


def test_numbers_in_a_jsonl_file_are_labels(write):
    lines = [
        {"premise": "a", "hypothesis": "b", "gold_label": 1, "more": None},
        {"gold_label": 0, "premise": "c", "hypothesis": ""},
    ]
    path = write("a.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    assert PairsFile({"train": path, "val": path}).splits()["val"] == [Example("a", "b", "1"), Example("c", "", "0")]


def test_a_file_is_cut_into_splits_by_columns(write):
    rows = [
        "lexical_overlap\tln_x\tnon-entailment",
        "subsequence\tse_y\tentailment",
        "lexical_overlap\tle_z\tentailment",
    ]
    hans = "heuristic\tsubcase\tgold_label\tpremise\thypothesis\n" + "".join(f"{row}\tp\th\n" for row in rows)
    train = write("train.tsv", HEADER + "p\th\tentailment\n")
    splits = PairsFile(
        {"hans": write("hans.tsv", hans), "train": train, "val": train},
        by={"hans": ["heuristic", "gold_label"]},
        subcase="subcase",
    ).splits()
    assert list(splits) == [
        "train",
        "val",
        "lexical_overlap.non_entailment",
        "subsequence.entailment",
        "lexical_overlap.entailment",
    ]
    assert splits["subsequence.entailment"] == [Example("p", "h", "entailment", "se_y")]
    assert splits["train"][0].subcase == ""


def test_a_share_of_the_training_texts_becomes_validation_with_all_their_pairs(write):
    lines = [f"premise {number // 3}\thypothesis {number}\t{'ab'[number % 2]}\n" for number in range(3000)]
    path, again = write("a.tsv", HEADER + "".join(lines)), write("b.tsv", HEADER + "".join(reversed(lines)))
    splits = PairsFile({"train": path}, val_fraction=0.2).splits()
    texts = {split: {example.text for example in rows} for split, rows in splits.items()}
    assert not texts["train"] & texts["val"] and len(texts["train"] | texts["val"]) == 1000
    assert len(splits["train"]) + len(splits["val"]) == 3000
    assert abs(len(splits["val"]) / 3000 - 0.2) < 0.05
    assert {example.text for example in PairsFile({"train": again}, val_fraction=0.2).splits()["val"]} == texts["val"]


@pytest.mark.parametrize(
    ("name", "text", "choices", "message"),
    [
        (
            "a.tsv",
            "premise\thypothesis\tlabel\nx\ty\tz\n",
            {},
            "a column 'gold_label' in .*a.tsv, found premise, hypothesis, label: type data.source.label=COLUMN",
        ),
        ("a.tsv", HEADER + "x\ty\tz\n", {"text": "sentence1"}, "type data.source.text=COLUMN"),
        ("a.tsv", HEADER + "x\ty\tz\nx\ty\n", {}, "expected 3 columns .* found 2 in line 3"),
        (
            "a.tsv",
            HEADER + "x\ty\t \n",
            {},
            "expected a label in each row, found an empty column 'gold_label' .* line 2",
        ),
        ("a.tsv", HEADER + "\ty\tz\n", {}, "expected a text in each row, found an empty column 'premise'"),
        (
            "a.jsonl",
            '{"premise": 1}\n{"premise"',
            {"pair": None, "label": "premise"},
            "one JSON object per line in .* line 2",
        ),
        ("a.jsonl", "[1]\n", {}, "one JSON object per line, found list"),
        ("a.txt", HEADER, {}, "expected a .tsv, .csv or .jsonl file at data.source.files.train=.*, found a .txt file"),
        ("a.tsv", HEADER, {"val_fraction": 1.0}, "0 < data.source.val_fraction < 1, found 1.0"),
        (
            "a.tsv",
            HEADER,
            {"by": {"hans": ["x"]}},
            r"other than train and val as keys of data.source.by, found \['hans'\]",
        ),
        (
            "a.tsv",
            HEADER,
            {"by": {"train": ["x"]}},
            r"other than train and val as keys of data.source.by, found \['train'\]",
        ),
    ],
)
def test_bad_tables_are_rejected(write, name, text, choices, message):
    with pytest.raises(ValueError, match=message):
        PairsFile({"train": write(name, text)}, **choices).splits()


def test_bad_files_are_rejected(write, tmp_path):
    for files in (None, {"val": "x.tsv"}):
        with pytest.raises(ValueError, match="expected a file for the split train, found"):
            PairsFile(files)
    with pytest.raises(ValueError, match="data.source.files.train=gone.tsv, found no file"):
        PairsFile({"train": "gone.tsv"})
    (tmp_path / "latin.tsv").write_bytes(HEADER.encode() + b"caf\xe9\tx\ty\n")
    with pytest.raises(ValueError, match="UTF-8 text in .*latin.tsv, line 2, .*type iconv -f windows-1252"):
        PairsFile({"train": str(tmp_path / "latin.tsv")}).splits()
    path = write("a.tsv", "h\t" + HEADER + "train\tx\ty\tz\n")
    with pytest.raises(
        ValueError, match=r"expected new splits from data.source.files.other=.*, found \['train'\] a second"
    ):
        PairsFile({"train": path, "other": path}, by={"other": ["h"]}).splits()


def test_a_label_is_the_same_in_every_spelling(write):
    """Blanks, numbers with a point, and composed or decomposed accents do not make separate classes."""
    labels = [" yes", "yes ", "y\u00eb s", "ye\u0308  s", 0, 0.0, "0.0", -0.0, True, "true", 1.5]
    rows = [{"premise": "p", "hypothesis": "h", "gold_label": label, "kind": 2.0} for label in labels]
    path = write("a.jsonl", "\n".join(map(json.dumps, rows)))
    examples = PairsFile({"train": path, "val": path}, subcase="kind").splits()["train"]
    expected = ["yes", "yes", "y\u00eb s", "y\u00eb s", "0", "0", "0", "0", "true", "true", "1.5"]
    assert [example.label for example in examples] == expected
    assert {example.subcase for example in examples} == {"2"}
    table = write("a.tsv", HEADER + "".join(f"p\th\t{label}\n" for label in (" yes", "yes", "0", "0.0", "1.10", "1.1")))
    examples = PairsFile({"train": table, "val": table}).splits()["train"]
    assert [example.label for example in examples] == ["yes", "yes", "0", "0", "1.10", "1.1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gold_label": None}, "expected a label in each row, found null in the column 'gold_label' .*, line 2: fill"),
        ({"gold_label": float("nan")}, "expected a label in each row, found NaN in the column 'gold_label'"),
        ({"gold_label": ["a"]}, r"expected a label in each row, found \["),
        ({"premise": None}, "expected a text in each row, found null in the column 'premise' .*, line 2"),
        ({"premise": {"a": 1}}, "expected a text in each row, found {"),
        ({"premise": True}, "expected a text in each row, found true"),
        ({"hypothesis": None}, "expected a second text .* 'hypothesis' .*, line 2: .*type data.source.pair=null"),
        ({"hypothesis": "\ud83d"}, "found half a surrogate pair, .* in the column 'hypothesis' in .*, line 2"),
        ({"premise": "a \udc00 b"}, "found half a surrogate pair, .* 'premise' in .*, line 2"),
        ({"by": None}, "expected a value in each row, found null in the column 'by'"),
    ],
)
def test_text_without_real_characters_is_rejected(write, changes, message):
    row = {"premise": "p", "hypothesis": "h", "gold_label": "a", "by": "x"}
    path = write("a.jsonl", json.dumps(row) + "\n" + json.dumps(row | changes))
    with pytest.raises(ValueError, match=message):
        PairsFile({"train": path, "more": path}, by={"more": ["by"]}).splits()


@pytest.mark.parametrize("name", ["a.JSONL", "a.ndjson", "a.json", "list.json", "a.tsv.gz", "a.CSV", "mark.jsonl.gz"])
def test_each_kind_of_file_is_read(write, tmp_path, name):
    rows = [{"premise": "p é", "hypothesis": "h", "gold_label": label} for label in "ab"]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    if name == "list.json":
        text = json.dumps(rows, indent=1)
    elif "json" not in name.lower():
        text = HEADER + "".join("\t".join(row.values()) + "\n" for row in rows)
        text = text.replace("\t", ",") if name == "a.CSV" else text
    text = f"\ufeff{text}" if name.startswith("mark") else text
    path = write(name, text)
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    assert PairsFile({"train": path, "val": path}).splits()["train"] == [
        Example("p é", "h", "a"),
        Example("p é", "h", "b"),
    ]


def test_a_long_field_is_read_and_a_quote_that_is_not_closed_is_named(write, monkeypatch):
    long = "word " * 40_000
    for name, between in (("a.tsv", "\t"), ("a.csv", ",")):
        path = write(name, HEADER.replace("\t", between) + between.join((long, "h", "a")) + "\n")
        assert PairsFile({"train": path, "val": path}).splits()["train"][0].text == long
    path = write("b.csv", 'premise,hypothesis,gold_label\nx,y,z\n"x,y,z\nx,y,z\nx,y,z\n')
    with pytest.raises(ValueError, match="found 1 in line 3: there is a comma or quote too many or too few"):
        PairsFile({"train": path}).splits()
    monkeypatch.setattr("data.examples.pairs_file.FIELD_CHARS", 8)
    with pytest.raises(ValueError, match="begins in line 3: field larger than field limit .*is a quote not closed?"):
        PairsFile({"train": write("c.csv", 'a,b,c\nx,y,z\n"x,y,z\nx,y,z\nx,y,z\n')}, "a", "b", "c").splits()
    assert csv.field_size_limit() == 131_072  # the limit of other readers in this process
    with pytest.raises(ValueError, match="distinct columns in line 1 of .*, found 'a' twice"):
        PairsFile({"train": write("d.csv", "a,b,a\n1,2,3\n")}, "a", "b", "b").splits()


def test_parquet_is_refused_with_a_command_that_converts_it(tmp_path):
    path = tmp_path / "pairs.parquet"
    parquet.write_table(pa.table({"sentence": ["a, b"], "label": ["yes"]}), path)
    with pytest.raises(ValueError, match="found a .parquet file") as raised:
        PairsFile({"train": str(path)})
    exec(str(raised.value).split('"')[1])
    assert (tmp_path / "pairs.csv").read_text() == '"sentence","label"\n"a, b","yes"\n'
