"""The typed root config, what is rejected before heavy imports, and every YAML file of conf/."""

import shlex
from pathlib import Path

import pytest
from hydra.errors import HydraException

import settings
from launch.cli.compose import compose
from launch.cli.validate import validate
from launch.run.summary import next_command


def test_defaults_are_those_of_the_design() -> None:
    cfg = compose([])
    assert (cfg.width, cfg.depth, cfg.seed, cfg.init_seed, cfg.data_seed) == (128, 2, 0, 0, 0)
    assert (cfg.compile, cfg.overwrite, list(cfg.references)) == ("auto", False, ["init", "previous"])
    assert (cfg.schedule.every, cfg.trainer.max_steps, cfg.data.n_ctx, cfg.data.batch_size) == (50, 800, 128, 16)
    assert (cfg.probe.sequences, cfg.probe.length, cfg.probe.split, cfg.track.budget) == (128, 64, "val", None)
    assert (cfg.include_padding, cfg.reference_groups, compose([], "analyze").include_padding) == (False, None, False)
    assert settings.run_name(cfg) == "solu-w128-d2-s0"


def test_seeds_follow_seed_unless_they_are_set() -> None:
    cfg = compose(["seed=3", "data_seed=5", "model=gelu", "width=256"])
    assert (cfg.init_seed, cfg.data_seed) == (3, 5)
    assert settings.run_name(cfg) == "gelu-w256-d2-s3"
    assert settings.run_name(compose(["name=mine"])) == "mine"


@pytest.mark.parametrize("override", ["width=big", "depth=2.5", "seed=1.5", "overwrite=maybe", "schedule.every=x"])
def test_the_root_is_typed(override: str) -> None:
    with pytest.raises(HydraException):
        compose([override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["width=100"], "width=100: .* nearest that work: width=64 or width=128"),
        (["width=32"], "width=32: .* nearest that work: width=64, or a head size that divides it, .*model.d_head=32"),
        (["width=0"], "width=0: expected a whole number from 1"),
        (["depth=-1"], "depth=-1: expected a whole number"),
        (["model.d_head=0"], "model.d_head=0: expected a whole number"),
        (["trainer.max_steps=0"], "trainer.max_steps=0: expected"),
        (["trainer.max_steps=ten"], "trainer.max_steps=ten: expected a whole number"),
        (["data.batch_size=3", "trainer.devices=2"], "data.batch_size=3: .* nearest that work: 2 or 4"),
        (["schedule.every=0"], "schedule.every=0: expected"),
        (["probe.length=200"], "probe.length=200: .* at most data.n_ctx=128"),
        (["probe.split=test"], "probe.split=test: expected train or val"),
        (["probe.precision=auto"], "probe.precision=auto: expected 32-true, .* or null"),
        (["track.budget=3"], "track.budget=3.0: expected a number above 0 and up to 1 or null"),
        (["compile=maybe"], "compile=maybe: expected auto, true or false"),
        (["trainer.precision=fp8"], "trainer.precision=fp8: expected auto, 32-true"),
        (["sites=[]"], "expected a name such as blocks"),
        (["name=a/b"], "name='a/b': expected the name of a folder"),
        (["+widht=64"], r"\+widht: unknown key"),
        (["trainer.max_epochs=3"], "trainer.max_epochs=3: .* type its number of steps, such as trainer.max_steps=800"),
        (["optimized_metric=dissimilarity/runs/a/cka/embed"], r"a reference out of references=\[init,previous\]"),
        (
            ["width=1000000"],
            r"width=1000000 depth=2: such a model has 32,000 GB of attention weights .* this machine has",
        ),
        (["depth=10000"], "depth=10000: expected a whole number from 1 to 1000"),
        (["optimized_metric=val_los"], r"optimized_metric=val_los: expected a number of summary.json \(.*val_loss"),
    ],
)
def test_a_config_that_cannot_train_is_rejected(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(compose(overrides))


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ValueError, match="(?s)depth=0.*track.budget=2"):
        validate(compose(["depth=0", "track.budget=2"]))


def test_a_constructor_says_what_is_wrong_in_its_own_words() -> None:
    with pytest.raises(ValueError, match="^invalid literal"):
        settings.instantiate({"_target_": "builtins.int", "_args_": ["x"]})


def test_the_next_command_leaves_out_what_its_references_lack() -> None:
    overrides = [
        "seed=3",
        "measures=fast",
        "references=[init,runs/a]",
        "reference_groups={near: [runs/a]}",
        "alerts=[move]",
    ]
    cfg = compose(["model=gelu", *overrides])
    typed = shlex.split(next_command(cfg, Path("runs/big"), overrides))
    assert typed == ["python", "train.py", "model=solu", "measures=fast", "seed=3", "references=[init,runs/big]"]
    compose(typed[2:])
