"""The benchmarks: each can be called by name with the options that the command line knows."""

from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.__main__ import OPTIONS, SIMULATIONS, main, names


@pytest.mark.parametrize("name", names())
def test_every_benchmark_runs_with_the_options_of_the_command_line(name: str) -> None:
    parameters = signature(import_module(f"benchmarks.{name}").run).parameters
    assert parameters.keys() <= {*OPTIONS, "device"}
    assert all(parameter.default is not Parameter.empty for parameter in parameters.values())


def layers(passes: str, tick: str) -> dict[str, record.Tables]:
    rows = [{"12 x 12 layers": "all tokens", "s": "2.10", "times the passes": passes}]
    return {"layers": [rows], "growth": [[{"": "tick", "grows with": "width 1,024", "CPU s": tick}]]}


def test_what_became_slower_since_a_file_is_shown_largest_first(tmp_path: Path) -> None:
    record.write(tmp_path / "then.json", "a machine", layers("1.53 (1.38 - 1.70)", "1,000"))
    machine, before = record.read(tmp_path / "then.json")
    assert machine == "a machine" and record.changes(before, before) == []
    rows = record.changes(before, layers("2.00 (1.9 - 2.1)", "5e2"))
    assert [(row["benchmark"], row["figure"], row["change"]) for row in rows] == [
        ("growth", "CPU s", "-50%"),
        ("layers", "times the passes", "+31%"),
    ]
    assert rows[0]["row"] == "tick, width 1,024" and rows[0]["before"] == "1,000"
    assert record.changes(before, {"new": []}) == record.changes({}, before) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"machine": "x"}', None])
def test_a_file_that_is_no_record_is_named_before_anything_runs(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "then.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr("sys.argv", ["benchmarks", "folding", "--against", str(path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (
        stopped.value.code == 2
        and "expected a file of `python -m benchmarks NAME --json FILE`" in capsys.readouterr().err
    )


def test_all_are_those_that_measure_time_and_memory() -> None:
    assert set(SIMULATIONS) < set(names()) and {"layers", "tracker", "growth"} <= set(names()) - set(SIMULATIONS)


def test_a_benchmark_that_has_no_device_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "tracker", "folding", "--device", "cuda"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and "these run on the processor only: folding" in capsys.readouterr().err
