"""Tables in a terminal: they fit it, two names never look alike, and no value is broken over lines."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dissimilarity.cli.fitted_table import FittedTable, inner_first, shortened
from launch.cli.sweep import print_table

WORDS = st.lists(st.sampled_from(["gelu", "w64", "s0", "s1", "long", "runs"]), min_size=1, max_size=5)


def rendered(table: FittedTable, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table, crop=False)
    return console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]


@given(st.lists(WORDS.map("-".join), min_size=1, max_size=6))
def test_short_names_differ_where_names_do(names: list[str]) -> None:
    short = shortened(names)
    assert len(set(zip(names, short, strict=True))) == len(set(names)) == len(set(short))
    assert all(len(after) <= len(before) + 1 for before, after in zip(names, short, strict=True))


def test_parts_that_agree_in_the_middle_are_shortened_too() -> None:
    names = ["solu-w64-d2-s0-lr0.1", "gelu-w64-d2-s0-lr0.2"]
    assert shortened(names) == ["solu-…lr0.1", "gelu-…lr0.2"]
    assert shortened(["same", "same", ""]) == ["same", "same", ""]
    assert shortened(["runs/a@0", "runs/a@64"]) == ["…0", "…64"]


@pytest.mark.parametrize("width", [200, 80, 60, 40])
def test_a_table_fits_and_says_what_it_leaves_out(width: int) -> None:
    table = FittedTable("a title", names=["run"], drop=["steps", "loss"])
    for header in ("run", "steps", "value", "loss"):
        table.add_column(header)
    for seed in range(3):
        table.add_row(f"gelu-w64-d6-a-long-name-s{seed}", "1000", f"0.12{seed} ± 0.001", f"2.34{seed} ± 0.002")
    lines = rendered(table, width)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert all(f"0.12{seed} ± 0.001" in text and f"s{seed} " in text for seed in range(3))
    assert ("gelu" in text) == (width >= 80)
    assert ("a wider terminal also shows: steps" in text) == (width < 60)
    assert table.row_count == 3 and len(table.columns) == 4


def test_names_that_agree_within_words_are_shortened_too() -> None:
    table = FittedTable("", names=["run"])
    table.add_column("run")
    for seed in range(2):
        table.add_row(f"a_long_beginning_of_every_name_s{seed}_and_an_end_like_those_of_others")
    assert [line.strip("│ ") for line in rendered(table, 40) if "│" in line] == ["…s0_…", "…s1_…"]
    assert "a_long_beginning" in "".join(rendered(table, 80))


def test_names_that_cannot_be_shortened_are_whole() -> None:
    table = FittedTable("", names=["run"])
    table.add_column("run")
    table.add_row("x" * 50 + "1")
    table.add_row("y" * 50 + "2")
    lines = [line.strip("│ ") for line in rendered(table, 30)]
    assert "x" * 50 + "1" in lines and "y" * 50 + "2" in lines


def test_the_table_of_a_sweep_fits_eighty_columns(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"solu-w64-d2-s0-lr_matrices0.00{seed}46{seed}-lr_other0.00{seed}" for seed in range(1, 4)]
    print_table([{"run": name, "status": "finished", "val_loss": 2.5, "seconds": 3} for name in names], "sweeps/x")
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert all(f"…lr_matrices0.00{seed}46{seed}-lr_other0.00{seed} " in out for seed in range(1, 4))


def test_inner_columns_go_evenly() -> None:
    assert inner_first(["0", "1"]) == []
    assert inner_first([0, 1, 2, 3, 4, 5]) == [1, 3, 2, 4]
