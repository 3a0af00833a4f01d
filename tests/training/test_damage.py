"""Silent damage: whatever happens to a file, its reader recovers or names the file and the remedy."""

import json
import random
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from benchmarks.kills import same
from data.pack import pack
from data.tokenizers import BytePairs
from dissimilarity.tables.curves import JOURNAL, TABLE, Curves, read_curves
from dissimilarity.tables.journal import Journal
from dissimilarity.tables.seal import read_table, read_tensors, write_table, write_tensors
from launch.cli.compose import compose
from models.checkpoints import read_tensors as read_torch
from models.continuing import checkpoint_of
from tests.helpers.tiny_run import in_process, kill_at, tiny, tiny_overrides
from tests.helpers.tiny_text import Texts, tiny_texts
from tests.instrument.tables.test_curves import row

Damage = Callable[[bytes], bytes]


def flip(share: float) -> Damage:
    """Change one byte at a given fraction of the file."""

    def change(data: bytes) -> bytes:
        place = min(int(len(data) * share), len(data) - 1)
        return data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :]

    return change


def swap(data: bytes) -> bytes:
    """Swap the second and the third line."""
    lines = data.splitlines(keepends=True)
    return b"".join([lines[0], lines[2], lines[1], *lines[3:]])


BYTES: dict[str, Damage] = {
    **{f"flipped at {share}": flip(share) for share in (0, 0.02, 0.2, 0.35, 0.5, 0.65, 0.8, 0.98, 1)},
    **{f"cut at {share}": lambda data, share=share: data[: int(len(data) * share)] for share in (0, 0.1, 0.6, 0.95)},
    "zeros": lambda data: bytes(len(data)),
    "zeros in the middle": lambda data: data[: len(data) // 3] + bytes(len(data) // 3) + data[2 * len(data) // 3 :],
    "zeros at the end": lambda data: data[: 2 * len(data) // 3] + bytes(len(data) - 2 * len(data) // 3),
}
LINES: dict[str, Damage] = {
    **BYTES,
    "a line twice": lambda data: data.replace(data.splitlines(keepends=True)[1], data.splitlines(keepends=True)[1] * 2),
    "a line less": lambda data: data.replace(data.splitlines(keepends=True)[1], b""),
    "two lines exchanged": swap,
    "half a line": lambda data: data[: len(data) // 2 + 40] + data[data.index(b"\n", len(data) // 2 + 40) :],
    "cut between two lines": lambda data: data[: data.index(b"\n", len(data) // 2) + 1],
}


def damage(path: Path, kind: Damage) -> None:
    path.write_bytes(kind(path.read_bytes()))


ROWS = [row(step, a, note="" if step else "ü") for step in range(6) for a in range(3)]


@pytest.mark.parametrize(
    ("name", "kind", "folded"),
    [(JOURNAL, kind, folded) for kind in LINES for folded in (0, 9, 15, 18)]
    + [(TABLE, kind, folded) for kind in BYTES for folded in (9, 18)],
)
def test_curves_are_intact_or_name_the_damage(tmp_path: Path, name: str, kind: str, folded: int) -> None:
    """Rows up to `folded` are in both the table and the journal, later ones only in the journal."""
    curves = Curves(tmp_path)
    curves.append(ROWS[:folded])
    if folded:
        curves.fold()
    curves.append(ROWS[folded:])
    mark = Journal(tmp_path / JOURNAL).mark()
    curves.append([row(6)])
    damage(tmp_path / name, LINES[kind])
    try:
        rows = read_curves(tmp_path).to_pylist()
    except ValueError as error:
        assert name == JOURNAL and JOURNAL in str(error) and "delete it" in str(error)
    else:
        # what was not folded, and is cut off at its end, is as if a kill had come before it was written
        assert rows == [*ROWS, row(6)][: len(rows)] and len(rows) >= folded
    try:
        curves.return_to(mark)
    except ValueError as error:
        assert name == JOURNAL and folded < len(ROWS)
        rest = "with the rows of curves.parquet" if folded else "without its rows"
        assert JOURNAL in str(error) and f"delete it to continue {rest}" in str(error)
        (tmp_path / JOURNAL).unlink()
        if folded:
            curves.return_to(mark)
            assert curves.rows() == ROWS[:folded]
    else:
        assert curves.rows() == ROWS
        assert Journal(tmp_path / JOURNAL).mark() == mark
        curves.append([row(6)])
        curves.fold()
        assert read_curves(tmp_path).to_pylist() == [*ROWS, row(6)]


def test_a_damaged_table_names_only_what_is_there(tmp_path: Path) -> None:
    curves = Curves(tmp_path)
    curves.append(ROWS)
    curves.fold()
    damage(tmp_path / TABLE, BYTES["cut at 0.6"])
    (tmp_path / JOURNAL).unlink()
    with pytest.raises(ValueError, match=rf"{TABLE}.*[^.]; put a copy of it back, or delete it to continue without"):
        read_curves(tmp_path)
    (tmp_path / TABLE).rename(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet(?!.*delete it)"):
        read_curves(tmp_path / "other.parquet")


@pytest.mark.parametrize("kind", LINES)
def test_a_journal_is_intact_or_names_the_damage(tmp_path: Path, kind: str) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    rows = [{"step": step, "loss": 1 / (step + 1)} for step in range(12)]
    journal.append(rows)
    mark = journal.mark()
    damage(journal.path, LINES[kind])
    with pytest.raises(ValueError, match=r"metrics\.jsonl.*; put a copy of it back, or delete it to continue without"):
        journal.return_to(mark)
    try:
        assert journal.read() == rows[: len(journal.read())]
    except ValueError as error:
        assert "metrics.jsonl" in str(error) and "delete it" in str(error)
    journal.path.unlink()
    journal.return_to(mark)
    assert journal.read() == []


def test_a_journal_of_an_earlier_version_continues(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rows.jsonl")
    journal.path.write_text('{"step": 0}\n{"step": 1}\n')
    mark = journal.mark()
    journal.append([{"step": 2}])
    journal.append([{"step": 3}])
    assert journal.read() == [{"step": step} for step in range(4)]
    assert [("crc" in json.loads(line)) for line in journal.path.read_text().splitlines()] == [False, False, True, True]
    assert journal.read(mark) == [{"step": 2}, {"step": 3}]
    journal.truncate(2)
    assert journal.read() == [{"step": step} for step in range(3)]
    damage(journal.path, lambda data: data.replace(b'"step": 1', b'"step": 7'))
    with pytest.raises(ValueError, match="line 2 is damaged"):
        journal.read()


def test_a_changed_first_line_of_an_earlier_version_is_found_by_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "rows.jsonl")
    journal.path.write_text('{"step": 0}\n')
    journal.append([{"step": 1}])
    damage(journal.path, lambda data: data.replace(b'"step": 0', b'"step": 5'))
    with pytest.raises(ValueError, match="line 2 is damaged"):
        journal.read()


def strides(path: Path, count: int) -> list[int]:
    size = path.stat().st_size
    return sorted({*range(0, size, max(1, size // count)), *range(16), *range(size - 16, size)})


def test_no_byte_of_a_table_changes_undetected(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    table = pa.table({"name": ["a", "b"] * 20, "value": [random.Random(0).random() for _ in range(40)]})
    write_table(table, path, {"mark": "1"})
    assert read_table(path).equals(table)
    _no_byte_unseen(path, 400, lambda: read_table(path).equals(table))


def test_no_byte_of_tensors_changes_undetected(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    tensors = {"a": torch.randn(7, 3), "b": torch.arange(5)}
    write_tensors(tensors, path)
    _no_byte_unseen(path, 200, lambda: all(torch.equal(read_tensors(path)[key], tensors[key]) for key in tensors))


def test_no_byte_of_a_checkpoint_changes_undetected(tmp_path: Path) -> None:
    path = tmp_path / "step_0000002.ckpt"
    tensors = {"a": torch.randn(7, 3), "b": torch.arange(5)}
    torch.save({**tensors, "note": "text"}, path)

    def same() -> bool:
        with path.open("rb") as file:
            read = read_torch(file, path, "a checkpoint")
        return torch.equal(read["a"], tensors["a"]) and torch.equal(read["b"], tensors["b"]) and read["note"] == "text"

    _no_byte_unseen(path, 300, same)


def _no_byte_unseen(path: Path, count: int, same: Callable[[], bool]) -> None:
    """Check that the reader returns the same (the byte was padding) or names the file."""
    whole = path.read_bytes()
    assert same()
    refused = 0
    for place in strides(path, count):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
        try:
            assert same(), f"byte {place} of {len(whole)}"
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > count / 4
    for kind in BYTES.values():
        path.write_bytes(kind(whole))
        try:
            assert same()
        except ValueError as error:
            assert str(path) in str(error)


SPEC = BytePairs(300)


@pytest.fixture(scope="module")
def packed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(Texts(tiny_texts(60)), SPEC, str(tmp_path_factory.mktemp("cache")), 0.2).folder


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "meta.json", "tokenizer.json"])
def test_damaged_text_is_packed_again(
    packed_once: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / packed_once.name
    whole = {path.name: path.read_bytes() for path in packed_once.iterdir()}
    for kind in BYTES.values():
        shutil.copytree(packed_once, folder, dirs_exist_ok=True)
        damage(folder / name, kind)
        caplog.clear()
        packed = pack(Texts(tiny_texts(60)), SPEC, str(tmp_path), 0.2)
        assert str(folder) in caplog.text and "packing the data again" in caplog.text
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
        assert packed.folder == folder
    (folder / name).unlink()
    pack(Texts(tiny_texts(60)), SPEC, str(tmp_path), 0.2)
    assert (folder / name).read_bytes() == whole[name]


def _run_with(folder: Path, *names: str) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    for name in names:
        torch.save({"a": torch.randn(5000)}, folder / "checkpoints" / name)
    return folder


@pytest.mark.parametrize("kind", BYTES)
def test_a_run_continues_from_the_newest_intact_checkpoint(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = _run_with(tmp_path / "x", "step_0000000.ckpt", "step_0000002.ckpt", "last.ckpt", "second_last.ckpt")
    last, before = run / "checkpoints" / "last.ckpt", run / "checkpoints" / "second_last.ckpt"
    assert checkpoint_of(run) == last and not caplog.text
    # near its ends are bytes that only fill up
    damage(last, flip(0.5) if kind in ("flipped at 0.02", "flipped at 0.98", "flipped at 1") else BYTES[kind])
    assert checkpoint_of(run) == before
    assert f"{last} is damaged" in caplog.text
    last.unlink()
    assert checkpoint_of(run) == before
    before.write_bytes(b"")
    with pytest.raises(ValueError, match=r"second_last\.ckpt is damaged.*init_from=runs/x@2 name=.*overwrite=true"):
        checkpoint_of(run)
    before.unlink()
    with pytest.raises(ValueError, match=r"last\.ckpt is missing.*init_from=runs/x@2"):
        checkpoint_of(run)
    damage(run / "checkpoints" / "step_0000002.ckpt", flip(0.5))
    assert checkpoint_of(run) is None


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a folder with a finished run in `runs` and, in `killed`, one that was killed after its tenth step."""
    folder = tmp_path_factory.mktemp("killed")
    assert in_process(tiny(folder), partial(kill_at, "on_train_batch_end", 10)) == -signal.SIGKILL
    shutil.copytree(folder / "runs" / "tiny", folder / "killed")
    assert in_process(tiny(folder)) == 0
    return folder, Path(shutil.move(folder / "runs" / "tiny", folder / "whole"))


def continued(folder: Path, break_it: Callable[[Path], None]) -> int:
    """Return the exit code of the continuation of the killed run after a change of its files."""
    run = folder / "runs" / "tiny"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(folder / "killed", run)
    break_it(run)
    return in_process(tiny(folder))


RECOVERED: dict[str, tuple[str, Damage]] = {
    "last.ckpt with another byte": ("checkpoints/last.ckpt", flip(0.5)),
    "last.ckpt empty": ("checkpoints/last.ckpt", BYTES["cut at 0"]),
    "curves.jsonl empty": ("curves.jsonl", BYTES["cut at 0"]),
    "curves.jsonl with another byte": ("curves.jsonl", flip(0.4)),
    "curves.parquet with another byte": ("curves.parquet", flip(0.4)),
}


@pytest.mark.parametrize("case", RECOVERED)
def test_a_damaged_run_continues_to_the_last_bit(case: str, killed: tuple[Path, Path]) -> None:
    folder, whole = killed
    name, kind = RECOVERED[case]
    assert continued(folder, lambda run: damage(run / name, kind)) == 0
    run = folder / "runs" / "tiny"
    ours, expected = (read_curves(path).drop_columns("seconds") for path in (run, whole))
    assert same(ours.to_pylist(), expected.to_pylist())
    weights = [torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for path in (run, whole)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])
    assert read_table(run / TABLE).num_rows == ours.num_rows


def test_lost_metrics_are_reported_and_dropped_by_deleting_them(
    killed: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, _ = killed
    journal = folder / "runs" / "tiny" / "metrics.jsonl"
    assert continued(folder, lambda run: damage(journal, flip(0.3))) == 1
    assert f"{journal}, line " in capfd.readouterr().err
    journal.unlink()
    assert in_process(tiny(folder)) == 0
    assert Journal(journal).read()[0]["step"] == 8


def test_without_an_intact_checkpoint_the_weights_start_another_run(
    killed: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, _ = killed

    def break_it(run: Path) -> None:
        for path in run.glob("checkpoints/*last.ckpt"):
            for place in (0.4, 0.5, 0.6):  # one of them may be between two entries of the archive
                damage(path, flip(place))

    assert continued(folder, break_it) == 1
    assert "init_from=runs/tiny@8 name=" in capfd.readouterr().err
    assert read_curves(folder / "runs" / "tiny")["step"].to_pylist()[-1] == 10 - 2, "the refusal changed nothing"
    changes = {"init_from": "runs/tiny@8", "name": "other", "trainer__max_steps": 2}
    overrides = [text for text in tiny_overrides(folder, **changes) if not text.startswith(("width", "depth", "model"))]
    assert in_process(compose([text for text in overrides if not text.startswith("data.tokenizer")])) == 0


def test_a_checkpoint_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "x.ckpt")
    finally:
        torch.serialization.set_crc32_options(True)
    with (tmp_path / "x.ckpt").open("rb") as file:
        assert torch.equal(read_torch(file, tmp_path / "x.ckpt", "a checkpoint")["a"], torch.ones(3))
