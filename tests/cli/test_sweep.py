"""Sweeps before their first job: names that tell jobs apart, one folder per command, intervals, rejections."""

import argparse
from collections.abc import Iterator

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import open_dict

from launch.cli.check import check
from launch.cli.command import with_overrides
from launch.cli.compose import compose
from launch.cli.rules import is_folder_name
from launch.cli.sweep import begin_status, in_search, job_name, write_status
from launch.run.folder import read_json


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    yield
    HydraConfig.instance().cfg = None


def arguments(*overrides: str) -> argparse.Namespace:
    return argparse.Namespace(multirun=True, overrides=list(overrides), config_dir=None)


def enter(job: list[str], folder: str = "") -> str:
    """Stand in a job of a sweep as Hydra does, and return the name of its run."""
    cfg = compose(job, with_hydra=True)
    with open_dict(cfg):
        cfg.hydra.mode, cfg.hydra.runtime.output_dir = RunMode.MULTIRUN, folder
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return job_name(cfg)


def names_of(*overrides: str) -> list[str]:
    """Return the names of the runs of a sweep, job by job."""
    more = check(arguments(*overrides))
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    return [enter([*job, *more]) for job in jobs]


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["data.batch_size=2,4"], ["solu-w128-d2-s0-batch_size2", "solu-w128-d2-s0-batch_size4"]),
        (["model=solu,gelu", "seed=range(2)"], [f"{m}-w128-d2-s{seed}" for m in ("solu", "gelu") for seed in (0, 1)]),
        (["data=sotu,stdlib", "width=64"], ["solu-w64-d2-s0-data-sotu", "solu-w64-d2-s0-data-stdlib"]),
        (
            ["task=classify", "probe.length=32", "data=heuristics,question_formation"],
            ["solu-w128-d2-heuristics-s0", "solu-w128-d2-questionformation-s0"],
        ),
        (["probe.length=32,16", "data.n_ctx=64"], ["solu-w128-d2-s0-length32", "solu-w128-d2-s0-length16"]),
        (["seed=0,1", "~callbacks.tracker", "++width=64"], ["solu-w64-d2-s0", "solu-w64-d2-s1"]),
        (["+trainer.min_steps=1,2"], ["solu-w128-d2-s0-min_steps1", "solu-w128-d2-s0-min_steps2"]),
        (["name=mine-${seed}", "seed=0,1"], ["mine-0", "mine-1"]),
        (["optim.eps=1e-8,1e-7", "optim=adamw"], ["solu-w128-d2-s0-eps1e-08", "solu-w128-d2-s0-eps1e-07"]),
    ],
)
def test_a_name_contains_the_swept_values_once(overrides: list[str], names: list[str]) -> None:
    assert names_of(*overrides) == names


def test_values_that_a_name_cannot_hold_are_told_apart() -> None:
    betas = names_of("optim.betas=[0.9,0.95],[0.9,0.99]", "data.seed=1", "init_seed=1,2")
    sites = names_of("sites=blocks.*.resid_post,blocks.*.mlp_out,[embed,ln_final]")
    assert len(set(betas)) == 4 and len(set(sites)) == 3
    assert all(map(is_folder_name, betas + sites))
    assert betas[0].startswith("solu-w128-d2-s0-betas0.9_0.95-") and betas[0].endswith("-init_seed1")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["name=x", "width=64,128"], r"the jobs width=64 and width=128 would share the folder runs/x; type 'name=x-"),
        (["name=x", "optim=adamw,finetune"], "share the folder runs/x; leave name= out"),
        (["debug=fdr", "width=64,128"], r"share the folder runs/debug-fdr; type 'name=debug-fdr-\$\{width\}'$"),
        (["seed=0,1,0"], "seed=0,1,0: 0 is there twice; type it once"),
        (["width=range(3,1)"], r"width=range\(3,1\): there is no such value"),
        (["width=64,100"], "width=100: the heads are"),
        (
            ["optim.lr_matrices=interval(0.1,0.2)"],
            "needs a list, such as optim.lr_matrices=0.1,0.2; ",
        ),
    ],
)
def test_an_impossible_sweep_is_rejected_before_its_first_job(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        check(arguments(*overrides))
    if "; type 'name=" in str(refused.value):
        mend = str(refused.value).partition("type '")[2].partition("'")[0]
        names = names_of(*(override for override in overrides if not override.startswith("name=")), mend)
        assert len(set(names)) == 2


def test_the_same_command_is_the_same_sweep() -> None:
    def folder(*overrides: str) -> str:
        return next(o.partition("=")[2] for o in check(arguments(*overrides)) if o.startswith("hydra.sweep.dir="))

    first = folder("width=64,128", "seed=0,1")
    assert first.startswith("sweeps/width-seed-") and is_folder_name(first.removeprefix("sweeps/"))
    assert folder("width=64,128", "seed=0,1", "overwrite=true", "hydra/launcher=basic") == first
    assert len({first, folder("width=64,128", "seed=0,2"), folder("width=64,128", "seed=0,1", "depth=1")}) == 3
    assert not [o for o in check(arguments("seed=0,1", "hydra.sweep.dir=mine")) if o.startswith("hydra.sweep.dir")]


def test_overrides_are_put_beside_those_of_the_user() -> None:
    assert with_overrides(["-m"], ["a=1"], []) == ["-m", "a=1"]
    assert with_overrides(["--config-dir", "x", "b=1"], ["a=1"], ["b=1"]) == ["--config-dir", "x", "a=1", "b=1"]


def test_ranges_of_other_sweepers_are_checked_at_their_ends() -> None:
    params = {"optim.weight_decay": "interval(0, 0.1)"}
    ConfigStore.instance().store("search", {"_target_": "some.Sweeper", "params": params}, "hydra/sweeper")
    search = ("hydra/sweeper=search", "width=choice(64,128)", "depth=range(1,9)", "seed=int(interval(0,5))")
    more = check(arguments(*search, "optim.lr_matrices=tag(log,interval(0.0005,0.01))"))
    job = ["optim.lr_matrices=0.00123456789", "optim.weight_decay=0.05", "width=64", "hydra/sweeper=search"]
    assert enter([*job, *more]) == "solu-w64-d2-s0-lr_matrices0.00123457-weight_decay0.05"
    assert in_search()
    for wrong in ("optim.lr_matrices=interval(-1,1)", "width=int(interval(64,100))", "depth=range(0,9)"):
        with pytest.raises(ValueError, match=f"{wrong.partition('=')[0]}="):
            check(arguments("hydra/sweeper=search", wrong))
    with pytest.raises(ValueError, match="this is for sweeps; type python train.py -m hydra/sweeper=search"):
        check(argparse.Namespace(multirun=False, overrides=["hydra/sweeper=search"], config_dir=None))


def test_a_job_that_starts_again_has_a_new_status(tmp_path) -> None:
    enter(["seed=1"], str(tmp_path))
    begin_status("run")
    write_status(status="failed", message="why")
    begin_status("run")
    write_status(status="finished")
    assert read_json(tmp_path / "status.json") == {"run": "run", "status": "finished"}
