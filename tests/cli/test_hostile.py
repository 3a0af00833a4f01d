"""Hostile files: every way to read a file with every trick, and a canary that must stay untouched."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import settings
import train
from analyze import analyze
from launch.cli.compose import compose
from launch.run.references import find
from models import references
from tests.helpers.hostile import TRICKS, Runs, Trick, net, payload
from tests.helpers.tiny_run import tiny


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return runs that tests must not change."""
    return Runs.at(tmp_path_factory.mktemp("strangers"))


@pytest.fixture
def runs(written: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    """Return a copy in the working directory, from which Python imports, and a canary that must not appear."""
    copy = written.copied_to(tmp_path)
    canary = tmp_path / "CANARY"
    payload(tmp_path, canary)
    torch.save(torch.zeros(1), tmp_path / "CANARY.pkl")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "artifacts"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield copy
    monkeypatch.undo()
    imported = {name for name in sys.modules if name == "payload" or name.startswith("runs.")}
    for name in imported:
        del sys.modules[name]
    assert not imported and not canary.exists()


@cache
def composed(*overrides: str) -> Any:
    return compose(list(overrides), "analyze")


def study(runs: Runs, name: str, models: str, *more: str) -> None:
    analyze(deepcopy(composed(f"study={name}", f"models=[{models}]", "size=small", "overwrite=true", *more)))


def in_checkpoint(runs: Runs, node: Any, root: bool) -> Path:
    """Put a trick into the net of a checkpoint; return the file."""

    def change(checkpoint: dict[str, Any]) -> None:
        hyper = checkpoint["hyper_parameters"]
        if root:
            hyper["net"] = node
        else:
            hyper["net"]["activation"] = node

    runs.rewrite("solu", "step_0000001.ckpt", change)
    return runs.rewrite("solu", "last.ckpt", change)


def in_metadata(runs: Runs, node: Any, root: bool, path: Path) -> Path:
    whole = {**node, "d_vocab": runs.d_vocab} if root else {**net("solu"), "d_vocab": runs.d_vocab, "activation": node}
    return runs.safetensors(path, whole)


def hf(runs: Runs, node: Any, root: bool) -> None:
    folder = runs.home / "folder"
    folder.mkdir(exist_ok=True)
    in_metadata(runs, node, root, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "dissimilarity"}))
    references.load(f"hf:{folder}")


def wandb(runs: Runs, node: Any, root: bool) -> None:
    from wandb.env import get_cache_dir

    place = get_cache_dir() / "references" / "me" / "toys" / "evil" / "v1"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(in_checkpoint(runs, node, root), place / "last.ckpt")
    (place / "artifact.json").write_text(json.dumps({"version": "v1", "digest": "x"}))
    references.load("wandb:me/toys/evil:v1")


def reference_of_a_run(runs: Runs, node: Any, root: bool) -> None:
    in_checkpoint(runs, node, root)
    cfg = tiny(runs.home, references="[runs/solu@1]")
    find(cfg, runs.folder("solu"), runs.tokenizer, torch.zeros(2, 8, dtype=torch.int64))


def checkpoint(then: Callable[[Runs, Path], object]) -> Callable[..., object]:
    return lambda runs, node, root: then(runs, in_checkpoint(runs, node, root))


NETS: dict[str, Callable[..., object]] = {
    "PATH.ckpt": checkpoint(lambda runs, path: references.load(str(path))),
    "runs/NAME": checkpoint(lambda runs, path: references.load("runs/solu", runs.home / "runs")),
    "runs/NAME@STEP": checkpoint(lambda runs, path: references.load("runs/solu@1", runs.home / "runs")),
    "PATH.safetensors": lambda runs, node, root: references.load(
        str(in_metadata(runs, node, root, runs.home / "net.safetensors"))
    ),
    "hf:FOLDER with our metadata": hf,
    "wandb:ARTIFACT": wandb,
    "init_from=": checkpoint(lambda runs, path: train.train(tiny(runs.home, name="new", init_from="runs/solu"))),
    "references=": reference_of_a_run,
    "study=compare, models": checkpoint(lambda runs, path: study(runs, "compare", "runs/solu,runs/gelu")),
    "study=asymmetry, models": checkpoint(lambda runs, path: study(runs, "asymmetry", "runs/solu,runs/gelu")),
    "study=scaling, models": checkpoint(lambda runs, path: study(runs, "scaling", "runs/solu,runs/gelu")),
    "study=dynamics, models": checkpoint(lambda runs, path: study(runs, "dynamics", "runs/solu")),
    "study=generalization, models": checkpoint(
        lambda runs, path: study(runs, "generalization", "runs/solu,runs/one,runs/two,runs/three")
    ),
    "study=export": checkpoint(lambda runs, path: study(runs, "export", "runs/solu", "study.to=safetensors")),
}


def config(name: str, models: str) -> Callable[..., object]:
    """Run a study of runs, the first of which has a trick in its config.yaml."""
    first = models.split(",")[0].removeprefix("runs/")

    def attack(runs: Runs, node: Any, root: bool) -> None:
        data = node if root else {**runs.data(), "source": node}
        runs.write_config(first, data)
        study(runs, name, models)

    return attack


CONFIGS: dict[str, Callable[..., object]] = {
    "study=compare, config.yaml": config("compare", "runs/solu,runs/gelu"),
    "study=asymmetry, config.yaml": config("asymmetry", "runs/solu,runs/gelu"),
    "study=scaling, config.yaml": config("scaling", "runs/solu,runs/gelu"),
    "study=dynamics, config.yaml": config("dynamics", "runs/solu"),
    "study=generalization, config.yaml": config("generalization", "runs/one,runs/two,runs/three,runs/four"),
}


def tricks_for(path: str) -> list[Trick]:
    """Return all tricks, or for a whole program every fourth beside the live ones: each then meets several programs.

    A program takes a tenth of a second per trick, and reads its files as the functions do that get every trick.
    """
    programs = [name for name in (*NETS, *CONFIGS) if name.startswith(("study=", "init_from="))]
    if path not in programs:
        return TRICKS
    turn = programs.index(path) % 4
    return [trick for number, trick in enumerate(TRICKS) if trick.live or number % 4 == turn]


@pytest.mark.parametrize("kind", [NETS, CONFIGS], ids=["nets", "configs"])
def test_every_trick_meets_a_program(kind: dict[str, Any]) -> None:
    met = {trick.name for path in kind if path.startswith("study=") for trick in tricks_for(path)}
    assert met == {trick.name for trick in TRICKS}


@pytest.mark.parametrize("path", [*NETS, *CONFIGS])
def test_nothing_that_a_file_names_is_run(path: str, runs: Runs) -> None:
    attack, package, wrong = (NETS | CONFIGS)[path], "models" if path in NETS else "data", []
    for trick in tricks_for(path):
        node = trick.make(runs.home / "CANARY", package)
        if not carries(path, node):
            continue
        for root in (False, True) if type(node) is dict and "_target_" in node else (False,):
            try:
                attack(runs, node, root)
                wrong.append(f"{trick.name}: was taken")
            except ValueError as error:
                if not re.search(r"\.ckpt|\.safetensors|config\.yaml", str(error)) or len(str(error)) > 1500:
                    wrong.append(f"{trick.name}: {error}")
            except BaseException as error:
                wrong.append(f"{trick.name}: {type(error).__name__}: {error}")
            if (runs.home / "CANARY").exists():
                wrong.append(f"{trick.name}: the canary")
                (runs.home / "CANARY").unlink()
    assert not wrong, "\n".join(wrong)


def carries(path: str, node: Any) -> bool:
    """Return whether the format of a file can hold a value: JSON has plain values only."""
    if path not in ("PATH.safetensors", "hf:FOLDER with our metadata"):
        return True
    try:
        return isinstance(node, (dict, str)) and bool(json.dumps(node))
    except (TypeError, ValueError):
        return False


@pytest.mark.parametrize("trick", [trick for trick in TRICKS if trick.live], ids=lambda trick: trick.name)
def test_the_tricks_work_where_nothing_guards(
    trick: Trick, written: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "CANARY"
    payload(tmp_path, canary)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        settings.instantiate(trick.make(canary, "models"))
    except Exception:
        pass
    finally:
        for name in [name for name in sys.modules if name == "payload" or name.startswith("runs")]:
            del sys.modules[name]
    assert canary.exists()
