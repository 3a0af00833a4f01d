"""Only files that runs leave are ever deleted from a folder."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dissimilarity.figures.run import draw_run
from launch.cli.compose import compose
from launch.run.contents import OVERWRITING, RUN, empty, foreign_paths, never_reached_step_0
from launch.run.folder import open_run, resolved
from studies.common.results import check_folder
from tests.helpers.tiny_run import in_process, tiny


def begun(tmp_path: Path, **changes: object) -> Path:
    """Return the folder of a run that ended before step 0, as after a wrong reference."""
    run = tmp_path / "runs" / "tiny"
    (run / "wandb" / "offline-run-1-a").mkdir(parents=True)
    (run / "references").mkdir()
    (run / "references" / "other-000.safetensors").touch()
    (run / "config.yaml").write_text(
        OmegaConf.to_yaml(OmegaConf.create(resolved(tiny(tmp_path, name="tiny", **changes))))
    )
    for name in ("provenance.json", "tokenizer.json"):
        (run / name).write_text("{}")
    return run


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_run_that_never_reached_step_0_makes_room_for_the_corrected_command(tmp_path: Path) -> None:
    run = begun(tmp_path, width=32)
    assert open_run(run, tiny(tmp_path)) == "new"
    assert files(run) == ["config.yaml"] and (run / "wandb" / "offline-run-1-a").exists()
    assert OmegaConf.load(run / "config.yaml").width == 16


def put(name: str, text: str = "mine") -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)

    return change


def link(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        elsewhere = run.parent.parent / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "thesis.tex").write_text("mine")
        (run / name).symlink_to(elsewhere)

    return change


LOST: dict[str, Callable[[Path], None]] = {
    "a thesis": put("thesis.tex"),
    "a repository": put(".git/HEAD"),
    "a hidden file": put(".env"),
    "a folder of one's own": put("notes/today.md"),
    "a file among the references": put("references/notes.txt"),
    "a model among the references": put("references/mine.safetensors"),
    "a file that only looks temporary": put(".config.yaml.mine.part"),
    "weights of one's own": put("checkpoints/step_of_mine.ckpt"),
    "a folder among the references": put("references/more/a.safetensors"),
    "a file of one's own beside W&B's": put("wandb/notes.md"),
    "the summary of a run without its checkpoints": put("summary.json", '{"status": "finished"}'),
    "metrics without checkpoints": put("metrics.jsonl", '{"step": 9}\n'),
    "curves without checkpoints": put("curves.parquet"),
    "figures without checkpoints": put("figures/curves.png"),
    "a checkpoint": put("checkpoints/step_0000000.ckpt"),
    "checkpoints that a sync has not brought yet": lambda run: (run / "checkpoints").mkdir(),
    "a link to a folder": link("data"),
    "a link instead of a folder of ours": link("checkpoints"),
    "a file instead of a folder of ours": put("figures"),
    "a folder instead of a file of ours": put("metrics.csv/a"),
}


@pytest.mark.parametrize("extra", LOST)
def test_a_folder_with_extra_files_is_not_emptied_without_overwrite(extra: str, tmp_path: Path) -> None:
    run = begun(tmp_path, width=32)
    LOST[extra](run)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"(?s)another config:.*width: 32 -> 16.*overwrite=true"):
        open_run(run, tiny(tmp_path))
    assert files(tmp_path) == before


@pytest.mark.parametrize("extra", [extra for extra in LOST if "checkpoint" not in extra and "without" not in extra])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_folder_with_foreign_files_is_not_emptied_even_with_overwrite(
    extra: str, interrupted: bool, tmp_path: Path
) -> None:
    run = begun(tmp_path)
    LOST[extra](run)
    if interrupted:
        (run / OVERWRITING).touch()
    before = files(tmp_path)
    with pytest.raises(
        ValueError, match="is not emptied, because it holds files that no run leaves there: .*; move them away"
    ):
        open_run(run, tiny(tmp_path, overwrite=True))
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "config",
    [
        "model: bert\ndata: squad\ntrainer: {}\n",
        "- a list\n",
        "",
        "text",
        "a: [\n",
        OmegaConf.to_yaml(compose(["models=[a,b]"], "analyze")),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_the_config_of_something_else_is_left_alone(config: str, overwrite: bool, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(config)
    (run / "metrics.csv").write_text("mine")
    with pytest.raises(ValueError, match="is not the folder of a run.*choose another name"):
        open_run(run, tiny(tmp_path, overwrite=overwrite))
    assert files(run) == ["config.yaml", "metrics.csv"] and (run / "config.yaml").read_text() == config


def test_results_are_not_written_into_the_folder_of_a_run(tmp_path: Path) -> None:
    run = begun(tmp_path)
    with pytest.raises(ValueError, match="is not a folder of results"):
        check_folder(run, compose(["models=[a,b]", "overwrite=true"], "analyze"))


def test_nothing_is_emptied_through_a_link(tmp_path: Path) -> None:
    run = begun(tmp_path, width=32)
    alias = run.parent / "alias"
    alias.symlink_to(run)
    before = files(tmp_path)
    with pytest.raises(ValueError, match="another config"):
        open_run(alias, tiny(tmp_path))
    with pytest.raises(ValueError, match="is a link to .* is not emptied through a link"):
        open_run(alias, tiny(tmp_path, overwrite=True))
    assert files(tmp_path) == before


def test_everything_that_a_run_writes_may_be_deleted(tmp_path: Path) -> None:
    """Train with every callback and logger that writes into the folder; RUN must list all their files."""
    loggers = "many" if find_spec("tensorboard") else "wandb"
    changes = {
        "callbacks": "stitching",
        "callbacks__stitching__sequences": 16,
        "logger": loggers,
        "trainer__max_steps": 2,
        "schedule__heatmap_every": 1,
    }
    assert in_process(tiny(tmp_path, **changes)) == 0
    run = tmp_path / "runs" / "tiny"
    draw_run(run)
    (run / "figures" / "penalties.png").touch()
    (run / ".metrics.csv.machine.12.ab.part").touch()
    (run / "checkpoints" / ".last.ckpt.machine.12.ab.part").touch()
    assert {path.name for path in run.iterdir()} >= {"wandb", "references", "checkpoints", "figures"}
    assert foreign_paths(run, RUN) == [] and not never_reached_step_0(run)
    empty(run)
    assert list(run.iterdir()) == []


def test_nan_is_written_as_null(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    from launch.run.folder import write_json

    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [1.5, {"c": float("-inf")}]})
    content = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert content == {"a": None, "b": [1.5, {"c": None}]}
