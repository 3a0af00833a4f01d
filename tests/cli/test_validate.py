"""Every key of conf/ has a rule, unusable values are rejected, and a rejected command leaves nothing behind."""

import copy
import math
import re
from dataclasses import fields
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import settings
from analyze import analyze
from dissimilarity.tracking.alerts import RULES
from launch.cli.arguments import ALERT_KEYS
from launch.cli.compose import CONF, compose
from launch.cli.keys import OPTIONAL, ROOTS
from launch.cli.rehearsal import absent, taken_back
from launch.cli.rules import PART, PARTS, Rule
from launch.cli.validate import entries, validate
from launch.machine import check_device, check_devices
from launch.run.ranks import is_first, waiting
from tests.helpers.tiny_run import in_process, tiny, tiny_overrides
from train import train

CHOICES = sorted(
    f"{path.parent.relative_to(CONF).as_posix()}={path.stem}"
    for path in CONF.glob("*/**/*.yaml")
    if path.stem != "base" and path.relative_to(CONF).parts[0] not in ("measure", "hydra", "data")
) + sorted(f"data={path.stem}" for path in (CONF / "data").glob("*.yaml") if path.stem != "base")
NEEDED = {
    "data=files": ["data.source.paths=[notes.txt]"],
    "data=hub": ["data.source.name=organization/name"],
    "data=pairs_file": ["data.source.files={train: mine.tsv}"],
    "data/tokenizer=file": ["data.tokenizer.path=tokenizer.json"],
    "data/tokenizer=hub": ["data.tokenizer.name=organization/name"],
    "measures=none": ["+measure@measures.cka=cka"],
}
"""Keys that some choices require."""
SETS = list(dict.fromkeys(["measures=default", *CHOICES]))
NEVER = (math.nan, 1e400, "foo", True)
"""Values that no number can have."""
SAMPLED = [path.stem for path in (CONF / "measure").glob("*.yaml") if "seed:" in path.read_text()]

MINUS_ONE = {"trainer.devices", "trainer.max_epochs", "trainer.num_sanity_val_steps"}
DRAWN = "data.source.sources.2.examples"
ZERO = {
    *("seed", "init_seed", "data_seed", "data.seed", "data.source.seed", "data.source.held_out_seed", f"{DRAWN}.seed"),
    *("data.source.counterexamples", f"{DRAWN}.counterexamples", *(f"measures.{name}.seed" for name in SAMPLED)),
    *("control.skip_first", "control.drop_top_norm", "study.controlled.skip_first", "study.controlled.drop_top_norm"),
    *("optim.lr_matrices", "optim.lr_other", "optim.lr_head", "optim.lr_pretrained", "optim.lr_scratch"),
    *("optim.weight_decay", "optim.warmup", "optim.final_lr"),
    *("trainer.gradient_clip_val", "trainer.limit_val_batches", "trainer.num_sanity_val_steps"),
    *("trainer.log_every_n_steps", "trainer.overfit_batches", "callbacks.console.every_seconds"),
    *("callbacks.stitching.budget", "study.stitched", "study.pairs", "study=generalization study.checkpoints"),
}
NULL = {"trainer.gradient_clip_val", "trainer.max_epochs", "model.rotary_share", "study.points"}
LISTS = {"trainer.devices"}


@cache
def composed(choice: str) -> tuple[DictConfig, str]:
    """Return the config of a choice on the command line, and its command."""
    if choice.startswith("study="):
        return compose([choice], "analyze"), "analyze"
    # Pairs of sentences are shorter than the default probe set's sequences.
    return compose([choice, "probe.length=32", *NEEDED.get(choice, [])]), "train"


def rules_of(choice: str) -> dict[str, Rule | None]:
    cfg, command = composed(choice)
    return {key: rule for key, rule, _, _ in entries(cfg, {**ROOTS[command], **OPTIONAL})}


def numbers_of(choice: str) -> dict[tuple[str, str], str]:
    """Return the dotted keys of the numbers of a choice outside of lists, one per argument of each target."""
    cfg, command = composed(choice)
    keys: dict[tuple[str, str], str] = {}
    for key, _, node, last in entries(cfg, ROOTS[command]):
        if isinstance(node, DictConfig) and type(getattr(node._get_node(last), "_val", None)) in (int, float):
            inside = node.get("_target_") or re.sub("medium|paper", "small", key)
            keys.setdefault((inside, str(last)), key)
    return keys


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_validates(choice: str) -> None:
    cfg, command = copy.deepcopy(composed(choice))
    validate(cfg, command)
    if command == "train":
        cfg.name = settings.run_name(cfg)
        OmegaConf.resolve(cfg.callbacks)
        OmegaConf.resolve(cfg.logger)
        OmegaConf.resolve(cfg.trainer)


@pytest.mark.parametrize("choice", SETS)
def test_every_value_of_conf_has_a_rule(choice: str) -> None:
    """The rule is its own or that of the list or mapping around it."""
    rules = rules_of(choice)
    whole = tuple(f"{key}." for key, rule in rules.items() if rule not in (None, PART, PARTS))
    leaves = [key for key in rules if not any(other.startswith(f"{key}.") for other in rules)]
    assert [key for key in leaves if rules[key] is None and not key.startswith(whole)] == []


@pytest.mark.parametrize("choice", SETS)
def test_a_number_is_rejected_outside_of_its_range_and_nowhere_else(choice: str) -> None:
    default = "study=compare" if choice.startswith("study=") else SETS[0]
    seen = numbers_of(default) if choice != default else {}
    cfg, command = composed(choice)
    for key in [key for argument, key in numbers_of(choice).items() if argument not in seen]:
        edges = [(-1, MINUS_ONE), (0, ZERO), (None, NULL), ([1], LISTS)]
        good = [value for value, keys in edges if {key, f"{choice} {key}"} & keys]
        changed = copy.deepcopy(cfg)
        for value in [*NEVER, {"a": 1}, *(value for value, _ in edges if value not in good)]:
            with pytest.raises((ValueError, OmegaConfBaseException), match=re.escape(key)) as refused:
                OmegaConf.update(changed, key, value, merge=False)
                validate(changed, command)
            assert isinstance(refused.value, OmegaConfBaseException) or ": expected " in str(refused.value)
        for value in good:
            OmegaConf.update(changed, key, value, merge=False)
            validate(changed, command)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.betas=[2,3]"], "optim.betas=[2,3]: expected a list such as [0.9,0.99], each a number of 0 or more"),
        (["optim.betas=0.9"], "optim.betas=0.9: expected a list"),
        (["trainer.max_steps=9223372036854775808"], "expected a whole number from 1 to 1000000000"),
        (["runs_dir=/dev/null"], "runs_dir=/dev/null: expected a folder that exists or can be made"),
        (["trainer.max_steps=1e3"], "expected a whole number from 1 to 1000000000; type trainer.max_steps=1000"),
        (["~optim.betas"], "optim.betas: this key is required: expected a list"),
        (["data=hub"], "data.source.name: a value is required: expected organization/name"),
        (["data=files", "data.source.paths=x"], "a file, a folder or a pattern; type 'data.source.paths=[x]'"),
        (["references=[runs/a,init,runs/a]"], "runs/a is listed twice; list it once"),
        (["references=[runs/a,./runs//a]"], "runs/a and ./runs//a are the same model, listed twice; list it once"),
        (
            ["alerts=[movd]"],
            "alerts=[movd]: expected a list such as [move,collapse], each nearest, move, collapse or a",
        ),
        (["alerts=move"], "or below (collapse); type 'alerts=[move]'"),
        (["alerts=[{rule:movd}]"], "alerts=[{rule:movd}]: expected a list such as [move,collapse]"),
        (["alerts=[{by:0.1}]"], "alerts=[{by:0.1}]: expected a list such as [move,collapse]"),
        (["alerts=[{rule:move,below:0.1}]"], "of rule, level, stop, and by (move) or below (collapse)"),
        (["alerts=[move,{rule:move,by:x}]"], "alerts.1.by=x: expected a number of 0 or more and below 1"),
        (
            ["alerts=[{rule:nearest}]"],
            "alerts: nearest needs two groups of references or more; type 'reference_groups=",
        ),
        (["callbacks.tracker.references={a:init}"], "callbacks.tracker.references={a:init}: expected a list such as"),
        (["measures=none"], "measures: expected one measure or more, found none; type measures=none +measure@"),
        (["references=['']"], "references=['']: expected a list such as [init,runs/a]"),
        (["trainer.devices=0"], "trainer.devices=0: expected auto, -1, a whole number, 1 or more, or a list such as"),
        (["trainer.devices=[0,0,0]", "data.batch_size=4"], "divided among 3 processes"),
        (["trainer.strategy=null"], "trainer.strategy=null: expected auto, ddp or another strategy"),
        (["measures.cka=null"], "measures.cka=null: expected a part with a _target_"),
        (["measures.procrustes.kind=foo"], "measures.procrustes.kind=foo: expected angular or squared"),
        (["model=pythia", "model.d_head=2"], "model.rotary_share=0.25 of model.d_head=2 is 0 dimensions"),
        (["callbacks=stitching", "callbacks.stitching.kind=foo"], "expected identity, scale_shift, orthogonal, affine"),
        (["callbacks=stitching", "task=classify"], "the stitching penalty is a next-token loss"),
        (["logger.wandb.project="], "logger.wandb.project=: expected a name of up to 128"),
        (["runs_dir="], "runs_dir=: expected a folder that exists or can be made"),
        (["optim.lr_matrices=${oc.env:PATH}"], "expected a number of 0 or more"),
        (["seed=-1", "optim.warmup=2"], "seed=-1: expected a whole number from 0 to 4294967295"),
        (["+optim.lr=1e-3"], "+optim.lr: unknown key; the keys of optim are lr_matrices"),
        (["+trainer.min_steps=foo"], "trainer.min_steps=foo: expected a whole number, 0 or more, or null"),
        (["+trainer.logger=foo"], "trainer.logger=foo: expected nothing here; type logger=wandb"),
        (["probe.precision=64-true"], "probe.precision=64-true: expected 32-true, bf16-mixed, 16-mixed or null"),
        (["study=compare", "study.pairs=foo"], "study.pairs=foo: expected all or matched"),
        (["study=dynamics", "study.sizes.small.seeds=[1,1]"], "each a whole number from 0 to 4294967295, none twice"),
        (["study=scaling", "size=big"], "size=big: expected one of small, medium, paper"),
        (["study=export", "models=[a,a]"], "models=[a,a]: a is listed twice"),
        (["study=export", "device=tpu"], "device=tpu: expected auto, cpu, gpu, cuda or mps"),
    ],
)
def test_messages_say_what_is_expected(overrides: list[str], message: str) -> None:
    command = "analyze" if overrides[0].startswith("study=") else "train"
    with pytest.raises(ValueError, match=re.escape(message)):
        validate(compose(overrides, command), command)


def test_alerts_have_the_keys_of_their_rules() -> None:
    names = {name: {field.name for field in fields(rule) if field.init} for name, rule in RULES.items()}
    assert {name: set(keys) for name, keys in ALERT_KEYS.items()} == names


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "a\tb", "a=b", "a,b", "x" * 201, ""])
def test_a_run_has_the_name_of_a_folder(name: str) -> None:
    cfg = compose([])
    cfg.name = name
    with pytest.raises(ValueError, match="^name="):
        validate(cfg)


def test_a_file_is_not_a_folder_for_runs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(ValueError, match="runs_dir=.*: expected a folder") as refused:
            validate(compose([f"runs_dir={place}"]))
        assert len(str(refused.value).splitlines()) == 1


REFUSED_LATER = {
    "trainer.strategy": ("foo", "trainer: You selected an invalid strategy name"),
    "+trainer.foo": (1, "trainer: .* unexpected keyword argument 'foo'"),
    "+measures.cka.foo": (1, "measures.cka: .* unexpected keyword argument 'foo'"),
    "+callbacks.console.foo": (1, "callbacks.console: got an unexpected keyword argument 'foo'"),
    "+callbacks.tracker.foo": (1, "callbacks.tracker: got an unexpected keyword argument 'foo'"),
    "+callbacks.mine._target_": ("nowhere.X", "callbacks.mine: .*nowhere"),
    "data.source.paths": ("[nothere.txt]", "expected text at 'nothere.txt'"),
    "references": ("[runs/nothere]", "there is no run folder"),
    "probe.sequences": (10**6, "expected 1000000 probe sequences .* type probe.sequences="),
    "+measures.mine._target_": ("builtins.dict", "measures.mine: expected a Measure, found builtins.dict"),
    "+logger.mine._target_": ("builtins.dict", "logger.mine: expected a Logger, found builtins.dict"),
    "trainer._target_": ("builtins.dict", "trainer: expected a Trainer, found builtins.dict"),
    "sites": ("foo", "no site of the model matches 'foo'"),
}
"""Faults that only building the parts reveals."""


@pytest.mark.parametrize("key", REFUSED_LATER)
def test_a_rejected_training_leaves_nothing(key: str, tmp_path: Path) -> None:
    value, message = REFUSED_LATER[key]
    cfg = compose([o for o in tiny_overrides(tmp_path) if not o.startswith(f"{key}=")] + [f"{key}={value}"])
    with pytest.raises(ValueError, match=message):
        train(cfg)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("key", ["+measures.cka.foo", "probe.sequences", "sites", "references"])
def test_a_rejected_command_deletes_no_old_run(key: str, tmp_path: Path) -> None:
    assert in_process(tiny(tmp_path, trainer__max_steps=1)) == 0
    before = files(tmp_path / "runs")
    value, message = REFUSED_LATER[key]
    overrides = [o for o in tiny_overrides(tmp_path, overwrite="true") if not o.startswith(f"{key}=")]
    with pytest.raises(ValueError, match=message):
        train(compose([*overrides, f"{key}={value}"]))
    assert files(tmp_path / "runs") == before


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_rejected_analysis_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    places = [f"runs_dir={tmp_path / 'runs'}", f"results_dir={tmp_path / 'results'}"]
    for overrides, message in {
        "models=[runs/a,runs/b] device=cuda": "device=cuda: torch .* finds no such device .*type device=cpu",
        "models=[runs/a,runs/b] +study.foo=1": "study: got an unexpected keyword argument 'foo'",
        "study=dynamics +measures.cka.foo=1": "measures.cka: .* unexpected keyword argument 'foo'",
        "study=dynamics models=[runs/a]": "there is no run",
        "study=dynamics study.family=foo": "Could not find 'model/foo'",
    }.items():
        with pytest.raises((ValueError, HydraException), match=message):
            analyze(compose([*places, *overrides.split()], "analyze"))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    for folder, content in ((tmp_path / "there", "config.yaml"), (tmp_path / "a" / "b", "checkpoints")):
        if folder.name == "there":
            folder.mkdir()
        new_folders = absent(folder)
        with (
            pytest.raises(OSError, match="full"),
            taken_back(new_folders, lambda inside: not (inside / "checkpoints").exists()),
        ):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / content).touch()
            raise OSError("full")
        assert (folder / content).exists()


def test_only_new_folders_are_removed(tmp_path: Path) -> None:
    new_folders = absent(tmp_path / "a" / "b" / "c")
    with pytest.raises(ValueError, match="no"), taken_back(new_folders, lambda folder: True):
        (tmp_path / "a" / "b" / "c").mkdir(parents=True)
        (tmp_path / "a" / "another").touch()
        raise ValueError("no")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["another"]


def test_missing_devices_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for asked in ("gpu", "cuda", "mps"):
        with pytest.raises(ValueError, match=f"trainer.accelerator={asked}: .* only cpu; type trainer.accelerator=cpu"):
            check_device("trainer.accelerator", asked)
    with pytest.raises(ValueError, match="trainer.devices=8: .*trainer.accelerator=cpu runs any number"):
        check_devices("auto", 8)
    for accelerator, devices in (("cpu", 8), ("auto", 1), ("auto", "auto"), ("auto", -1)):
        check_device("trainer.accelerator", accelerator)
        check_devices(accelerator, devices)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Card")
    check_devices("gpu", [0, 1])
    for devices in (3, [2]):
        with pytest.raises(ValueError, match="this machine has 2 x Card; type trainer.devices=auto$"):
            check_devices("gpu", devices)


def test_a_training_on_several_machines_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RANK", "SLURM_PROCID", "SLURM_JOB_ID", "LOCAL_RANK", "NODE_RANK"):
        monkeypatch.delenv(key, raising=False)
    place = SimpleNamespace(main_address="10.0.0.1", main_port=29500)
    strategy = SimpleNamespace(cluster_environment=place, _timeout=timedelta(minutes=30))
    message = waiting(SimpleNamespace(num_nodes=2, strategy=strategy))  # pyright: ignore[reportArgumentType]
    assert message and "waiting for 1 more machine at 10.0.0.1:29500, for 30 minutes at most" in message
    assert "NODE_RANK=1 " in message and "MASTER_PORT=29500" in message
    assert waiting(SimpleNamespace(num_nodes=1, strategy=strategy)) is None  # pyright: ignore[reportArgumentType]
    assert is_first()
    monkeypatch.setenv("NODE_RANK", "1")
    assert not is_first()
    monkeypatch.setenv("RANK", "0")
    assert is_first()
