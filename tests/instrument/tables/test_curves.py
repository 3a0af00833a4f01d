"""The curves table: one schema, whole at any time, and no row lost between the journal and the table."""

import math
import os
import random
import struct
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dissimilarity.tables.curves import (
    JOURNAL,
    SCHEMA,
    TABLE,
    Curves,
    distinct,
    grid,
    heatmap_steps,
    matched,
    read_curves,
    select,
)


def row(step: int, a: int = 0, b: int = 0, **other) -> dict:
    row = dict(step=step, tokens=step * 64, reference="init", measure="cka")
    row |= dict(site_a=f"blocks.{a}.resid_post", site_b=f"blocks.{b}.resid_post")
    row |= dict(value=1 - step / 7, dissimilarity=step / 7, stderr=0.01, null=0.1, n_samples=100, seconds=step / 3)
    row |= dict(
        reference_step=0, n_units=3, influence=[0.5, step / 8, -0.25], probe="ab12", calibrated=1 - step / 6.3, note=""
    )
    return row | other


def same(table: pa.Table, rows: list[dict]) -> bool:
    def bits(value):
        return (
            struct.pack("<d", value)
            if isinstance(value, float)
            else list(map(bits, value))
            if isinstance(value, list)
            else value
        )

    expected = [{name: bits(row[name]) for name in SCHEMA.names} for row in rows]
    return (
        table.schema.equals(SCHEMA) and [{k: bits(v) for k, v in row.items()} for row in table.to_pylist()] == expected
    )


@pytest.fixture
def curves(tmp_path) -> Curves:
    return Curves(tmp_path)


def test_rows_come_back_exactly_from_either_file(curves):
    rows = [row(0, value=math.nan, note="ValueError: no samples"), row(1, value=0.1 + 0.2, stderr=math.inf), row(2)]
    curves.append(rows)
    assert same(read_curves(curves.folder), rows)
    assert curves.fold() == curves.folder / TABLE
    assert same(read_curves(curves.folder), rows)
    assert same(pq.read_table(curves.folder / TABLE).replace_schema_metadata(None), rows)
    assert same(read_curves(curves.folder / JOURNAL), rows)
    (curves.folder / JOURNAL).unlink()
    assert same(read_curves(curves.folder), rows) and same(read_curves(curves.folder / TABLE), rows)
    assert read_curves(curves.folder)["stderr"].null_count == 0


def test_missing_defaults_and_foreign_columns(curves):
    short = row(0)
    for name in ("stderr", "null", "calibrated", "influence", "probe", "note"):
        del short[name]
    curves.append([short])
    (record,) = curves.rows()
    assert all(math.isnan(record[name]) for name in ("stderr", "null", "calibrated")) and record["note"] == ""
    assert record["influence"] == [] and record["probe"] == ""
    with pytest.raises(ValueError, match=r"missing \['value'\], unknown \['cka'\]"):
        curves.append([row(1), {name: value for name, value in row(2, cka=1.0).items() if name != "value"}])
    assert len(curves.rows()) == 1


def test_influences_have_six_digits_in_every_file(curves):
    """What JSON and float32 hold is one number, so that lost lines of the journal come back byte for byte."""
    g = random.Random(0)
    influence = [g.uniform(-1, 1) * 10 ** g.randint(-30, 30) for _ in range(500)] + [0.0, -0.0, 1e-300, 1e38]
    rows = [row(0, influence=influence), row(1, influence=[0.5, math.nan, 0.5]), row(2, influence=[math.inf])]
    curves.append(rows)
    journal = (curves.folder / JOURNAL).read_bytes()
    stored = read_curves(curves.folder)["influence"].to_pylist()
    assert stored[0] == pytest.approx(influence, rel=6e-6, abs=1e-37) and stored[1:] == [[], []]
    curves.fold()
    assert read_curves(curves.folder)["influence"].to_pylist() == stored
    (curves.folder / JOURNAL).unlink()
    curves.append([])
    assert (curves.folder / JOURNAL).read_bytes() == journal
    (curves.folder / JOURNAL).write_bytes(journal.replace(b"0.5", b"0.6"))
    curves.truncate(2)
    assert (curves.folder / JOURNAL).read_bytes() == journal
    assert len(journal) < 14 * len(influence) + 1500


def test_the_newer_of_both_files_is_read(curves):
    curves.append([row(0), row(1)])
    curves.fold()
    curves.append([row(2)])
    assert same(read_curves(curves.folder), [row(0), row(1), row(2)])
    with open(curves.folder / JOURNAL, "ab") as file:
        file.write(b'{"step": 3')
    assert same(read_curves(curves.folder), [row(0), row(1), row(2)])
    curves.fold()
    assert same(read_curves(curves.folder), [row(0), row(1), row(2)])


def test_a_table_of_another_history_is_not_used(curves):
    curves.append([row(0), row(1, seconds=0.25)])
    curves.fold()
    curves.truncate(0)
    assert same(read_curves(curves.folder), [row(0)])
    curves.append([row(1, seconds=0.75), row(2)])
    assert same(read_curves(curves.folder), [row(0), row(1, seconds=0.75), row(2)])
    curves.truncate(-1)
    assert curves.rows() == [] and read_curves(curves.folder).num_rows == 0
    curves.fold()
    assert pq.read_table(curves.folder / TABLE).num_rows == 0


def test_a_journal_that_is_gone_comes_back_from_the_table(curves):
    for lose in (lambda: curves.append([row(9)]), lambda: curves.truncate(5), curves.fold, curves.rows):
        (curves.folder / JOURNAL).unlink(missing_ok=True)
        (curves.folder / TABLE).unlink(missing_ok=True)
        curves.append([row(0), row(1)])
        curves.fold()
        (curves.folder / JOURNAL).unlink()
        lose()
        assert same(read_curves(curves.folder), [row(0), row(1), row(9)][: read_curves(curves.folder).num_rows])
        assert read_curves(curves.folder).num_rows >= 2


def test_no_curves_broken_curves_other_tables(curves, tmp_path):
    with pytest.raises(ValueError, match="no curves in .*curves.parquet"):
        read_curves(tmp_path / "nowhere")
    assert curves.rows() == []
    curves.append([row(0)])
    whole = curves.fold().read_bytes()
    (tmp_path / TABLE).write_bytes(whole[: len(whole) // 2])
    assert same(read_curves(tmp_path), [row(0)])
    (tmp_path / JOURNAL).unlink()
    with pytest.raises(ValueError, match="cannot read .*curves.parquet"):
        read_curves(tmp_path)
    pq.write_table(pa.table({"step": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"no curves table: expected .* found \['step'\]"):
        read_curves(tmp_path / "other.parquet")


def test_a_failed_fold_leaves_the_old_table(curves, monkeypatch):
    curves.append([row(0)])
    curves.fold()
    curves.append([row(1)])

    def disk_full(table, path, **options):
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", disk_full)
    with pytest.raises(OSError, match="No space"):
        curves.fold()
    assert pq.read_table(curves.folder / TABLE).num_rows == 1
    assert sorted(os.listdir(curves.folder)) == [JOURNAL, TABLE]


def test_a_reader_sees_whole_tables_while_a_run_writes(curves):
    curves.append([row(0)])
    curves.fold()
    done = threading.Event()

    def write():
        try:
            for step in range(1, 60):
                curves.append([row(step)])
                curves.fold()
                if step % 20 == 0:
                    curves.truncate(step - 5)
                    for again in range(step - 4, step + 1):
                        curves.append([row(again)])
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set():
        for path in (curves.folder, curves.folder / TABLE):
            steps = read_curves(path)["step"].to_pylist()
            assert steps == list(range(len(steps))) and steps
        assert pq.ParquetFile(curves.folder / TABLE).read().num_rows
        reads += 1
    writer.join()
    assert reads > 5
    assert read_curves(curves.folder).num_rows == 60


def test_selections():
    rows = [row(step, i, i) for step in (4, 0, 2) for i in (0, 1)]
    rows += [row(0, i, j) for i in (0, 1) for j in (0, 1, 2)]
    rows += [row(0, reference="previous")]
    table = select(pa.Table.from_pylist(rows, schema=SCHEMA), reference="init")
    assert distinct(table, "step") == [4, 0, 2]
    assert select(table, step=4, site_a="blocks.1.resid_post").num_rows == 1
    rows = [row(step, i, 2 * i) for step in (4, 0, 2) for i in (0, 1)]
    rows += [row(6, i, j, dissimilarity=i + j / 10) for i in (0, 1) for j in (0, 1, 2)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    curves = matched(table)
    assert curves["step"].to_pylist() == [0, 0, 2, 2, 4, 4, 6, 6]
    assert set(zip(curves["site_a"].to_pylist(), curves["site_b"].to_pylist(), strict=True)) == {
        ("blocks.0.resid_post", "blocks.0.resid_post"),
        ("blocks.1.resid_post", "blocks.2.resid_post"),
    }
    assert heatmap_steps(table) == [6]
    sites_b = [f"blocks.{j}.resid_post" for j in range(3)]
    values = grid(select(table, step=6), "dissimilarity", sites_b[:2], sites_b)
    assert values.tolist() == [[0.0, 0.1, 0.2], [1.0, 1.1, 1.2]]
    assert math.isnan(grid(select(table, step=2), "value", sites_b[:2], sites_b)[0, 1])
