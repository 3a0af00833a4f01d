"""The journal: exact round trips, and nothing lost but the row being written, wherever a kill falls."""

import math
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dissimilarity.tables.files as files_module
import dissimilarity.tables.journal as journal_module
from dissimilarity.tables.journal import Journal


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "rows.jsonl")


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@given(st.lists(st.floats(allow_nan=False) | st.just(math.nan), min_size=1, max_size=20))
def test_floats_come_back_to_the_last_bit(tmp_path_factory, values):
    journal = Journal(tmp_path_factory.mktemp("journal") / "rows.jsonl")
    journal.append({"step": 0, "value": value, "note": "ü\n"} for value in values)
    assert [bits(row["value"]) for row in journal.read()] == [bits(value) for value in values]
    assert {row["note"] for row in journal.read()} == {"ü\n"}


def test_a_missing_file_has_no_rows(journal):
    assert journal.read() == []
    journal.truncate(3)
    journal.append([])
    assert not journal.path.exists()


def test_a_torn_last_row_is_dropped_at_every_byte(journal):
    journal.append([{"step": 0, "value": 0.5}, {"step": 1, "value": math.inf}])
    first = journal.path.read_bytes()
    journal.append([{"step": 2, "value": -1e-300}])
    whole = journal.path.read_bytes()
    for length in range(len(first), len(whole)):
        journal.path.write_bytes(whole[:length])
        assert journal.read() == [{"step": 0, "value": 0.5}, {"step": 1, "value": math.inf}]
        journal.append([{"step": 3}])
        assert journal.read()[2:] == [{"step": 3}]
        journal.path.write_bytes(whole[:length])
        journal.truncate(2)
        assert journal.path.read_bytes() == first


def test_a_torn_row_longer_than_a_block_is_cut(journal):
    journal.append([{"step": 0}])
    with open(journal.path, "ab") as file:
        file.write(b'{"note": "' + b"x" * 200_000)
    journal.append([{"step": 1}])
    assert journal.read() == [{"step": 0}, {"step": 1}]
    journal.path.write_bytes(b"x" * 200_000)
    journal.append([{"step": 1}])
    assert journal.read() == [{"step": 1}]


@pytest.mark.parametrize("line", [b'{"step": 1', b"3", b"", b"\0\0\0"])
def test_a_broken_line_in_the_middle_names_file_and_line(journal, line):
    journal.path.write_bytes(b'{"step": 0}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2"):
        journal.read()


def test_truncate_drops_later_rows_and_keeps_the_rest_as_written(journal):
    journal.append([{"step": step, "value": step / 7} for step in (0, 1, 2, 4, 8)])
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.truncate(4)
    assert journal.path.read_bytes() == b"".join(lines[:4])
    before = journal.path.stat().st_ino
    journal.truncate(4)
    assert journal.path.stat().st_ino == before
    journal.append([{"note": "no step"}])
    with pytest.raises(ValueError, match="line 5: a row without a step"):
        journal.truncate(2)
    assert len(journal.read()) == 5


def test_a_value_without_a_json_form_writes_nothing(journal):
    with pytest.raises(TypeError):
        journal.append([{"step": 0}, {"step": object()}])
    assert not journal.path.exists()


def test_a_failed_write_leaves_the_file_as_it_was(journal, monkeypatch):
    journal.append([{"step": 0}])
    before = journal.path.read_bytes()

    def disk_full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        journal.append([{"step": 1}])
    assert journal.path.read_bytes() == before


def states_of(folder: Path, job: Callable[[], None]) -> list[dict[str, bytes]]:
    """Return the files of a folder before each line of our code and after the last: all that a kill there leaves."""
    states = []

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def note(frame, event, _):
        if frame.f_code.co_filename not in (journal_module.__file__, files_module.__file__):
            return None
        if event == "line":
            states.append(files())
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        job()
    finally:
        sys.settrace(before)
    return [*states, files()]


def test_killed_at_any_line_of_truncate_or_append(journal):
    old, folder = [{"step": step} for step in range(3)], journal.path.parent
    seen = set()
    for job in (lambda: journal.truncate(0), lambda: journal.append([{"step": 3}])):
        journal.path.unlink(missing_ok=True)
        journal.append(old)
        states = states_of(folder, job)
        assert len(states) > 10
        for state in states:
            for path in folder.iterdir():
                path.unlink()
            for name, content in state.items():
                (folder / name).write_bytes(content)
            rows = journal.read()
            assert rows in (old, old[:1], [*old, {"step": 3}])
            journal.append([{"step": 9}])
            assert journal.read() == [*rows, {"step": 9}]
            seen.add(len(rows))
    assert seen == {1, 3, 4}
