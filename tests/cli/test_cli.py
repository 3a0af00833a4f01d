"""The command line for its user: immediate help, messages instead of tracebacks, sweeps that can be repeated."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import train as program
from data.pack import cache_lock
from launch.cli.command import check_modules, flags_first
from launch.cli.compose import CONF, compose
from launch.cli.sweep import SweepTable
from launch.machine import Precision, choose_compile, choose_precision, kept_precision, step_seconds
from launch.run.folder import write_json
from tests.helpers.tiny_run import forked_command, tiny_overrides

TRAIN = CONF.parent / "train.py"


def train(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python train.py ARGUMENTS` in `folder`."""
    return forked_command(program, arguments, folder, COLUMNS="200", **environment)


MISTAKES = {
    ("model=sollu",): ["model=sollu: no such choice; did you mean model=solu?", "model can be: attn_only, gelu"],
    ("widht=64",): ["widht=64: there is no key widht; did you mean width?", "keys are: width, depth"],
    ("width=big",): ["width=big: expected a whole number"],
    ("depth=2.5",): ["depth=2.5: expected a whole number"],
    ("width=100",): ["nearest that work: width=64 or width=128"],
    ("trainer.max_stepz=3",): ["there is no key trainer.max_stepz; did you mean trainer.max_steps"],
    ("-m", "model=solu,gellu"): ["model=gellu: no such choice; did you mean model=gelu?"],
    ("width=64,128", "-m", "seed=0,x"): ["seed=x: expected a whole number"],
    ("-m", "width=64,100"): ["width=100: the heads are"],
    ("-m", "width=64,128", "trainer=ddp"): ["every process of such a run starts this command again", "joblib"],
    ("-m", "seed=0,1", "trainer.devices=2"): ["every process of such a run starts this command again"],
    ("width",): ["width: expected KEY=VALUE"],
    ("name=a=b",): ["name=a=b: the value cannot be read (", "'name=\"a=b\"'"],
    ("name=it's=x",): ["'name=\"it'\"'\"'s=x\"'"],
    ('references=["init", runs/b=1]',): ['\'references=["init","runs/b=1"]\''],
    ('name="abc',): ['name="abc: the value cannot be read.', "'name=\"abc\"'"],
    ('reference_groups={"g<1>": [runs/a]}',): ["Names before a colon have letters", "'reference_groups={name: "],
    ("references=runs/x",): ["references=runs/x: expected a list such as", "type 'references=[runs/x]'"],
    ("alerts={rule:move}",): ["alerts={rule:move}: expected a list such as", "type 'alerts=[{rule:move}]'"],
    ("start=runs/a",): ["start=runs/a: there is no key start; its name is now init_from"],
    ("callbacks.tracker.groups=8",): ["callbacks.tracker.groups=8: there is no key", "now callbacks.tracker.n_units"],
    ("groups={a:[init]}",): ["there is no key groups; its name is now reference_groups"],
    ("+widht=64",): ["+widht: unknown key"],
    ("tiny",): ["tiny: expected KEY=VALUE; did you mean experiment=tiny?"],
    ("data=question_formation", "data.cache_dir=x"): [
        "no key data.cache_dir with this choice of data; it belongs to data="
    ],
    ("-m", "hydra/sweeper=optunaa"): ["hydra/sweeper=optunaa: no such choice"],
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=" ".join)
def test_a_mistake_gets_a_message_and_no_traceback(mistake: tuple[str, ...], tmp_path: Path) -> None:
    done = train(*mistake, folder=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for message in MISTAKES[mistake]:
        assert message in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("arguments", [("--help",), ("--cfg", "job"), ("model=sollu",), ("widht=64",)], ids=" ".join)
def test_nothing_heavy_is_imported_for_an_answer(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['train.py', *{list(arguments)}]; sys.path.insert(0, {str(TRAIN.parent)!r})\n"
        "import train\n"
        "try: train.run(train.main, 'train')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pytorch_lightning', 'wandb', 'datasets'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "[]"


def test_help_lists_groups_keys_and_examples(tmp_path: Path) -> None:
    extra = tmp_path / "mine" / "model"
    extra.mkdir(parents=True)
    (extra / "siren.yaml").touch()
    done = train("--help", f"hydra.searchpath=[file://{tmp_path / 'mine'}]", folder=tmp_path)
    assert done.returncode == 0
    for text in ("python train.py model=solu width=512", "attn_only, gelu", "siren", "tiny", "trainer.max_steps=800"):
        assert text in done.stdout


def test_help_tells_the_defaults_that_hold(tmp_path: Path) -> None:
    cfg, shown = compose([]), train("--help", folder=tmp_path).stdout
    keys = shown[shown.index("Keys, with") : shown.index("The same command")].split("\n\n")[1]
    defaults = dict(re.findall(r"^  ([\w.]+)=(\S+)", keys, re.MULTILINE))
    assert len(defaults) > 20
    for key, value in defaults.items():
        assert OverridesParser.create().parse_override(f"{key}={value}").value() == OmegaConf.select(cfg, key), key


def test_cfg_job_shows_everything(tmp_path: Path) -> None:
    done = train("--cfg", "job", "model=gelu", folder=tmp_path)
    assert done.returncode == 0
    for text in ("width: 128", "family: gelu", "max_steps: 800", "mode: null", "every: 50"):
        assert text in done.stdout


def test_flags_may_stand_among_the_overrides() -> None:
    assert flags_first(["width=64", "-m", "seed=0,1"]) == ["-m", "width=64", "seed=0,1"]
    assert flags_first(["width=64"]) == ["width=64"]


def test_a_module_that_shadows_ours_is_named(tmp_path: Path) -> None:
    check_modules()
    with pytest.raises(ValueError, match="expected the module callbacks beside .* shadows it"):
        check_modules(tmp_path)


@pytest.mark.slow
def test_a_sweep_outlives_a_failed_job_and_is_completed_by_repeating_it(tmp_path: Path) -> None:
    changes = {"name": "null", "trainer__max_steps": 2, "trainer__val_check_interval": 2, "schedule__every": 2}
    overrides = [o for o in tiny_overrides(tmp_path, **changes) if not o.startswith("width=")]
    stranger = tmp_path / "runs" / "solu-w16-d1-s0" / "thesis.txt"
    stranger.parent.mkdir(parents=True)
    stranger.touch()
    overrides += ["~callbacks.tracker"]
    first = train("-m", *overrides, "width=16,24", "hydra.sweep.dir=first", folder=tmp_path)
    assert first.returncode == 1, first.stderr
    assert [row["status"] for row in table(tmp_path / "first")] == ["failed", "finished"]
    assert "is not the folder of a run" in table(tmp_path / "first")[0]["message"]
    stranger.unlink()
    again = train(*overrides, "-m", "width=16,24", "hydra.sweep.dir=again", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "runs/solu-w24-d1-s0 is finished already" in again.stdout
    rows = table(tmp_path / "again")
    assert [(row["run"], row["status"], row["steps"]) for row in rows] == [
        ("solu-w16-d1-s0", "finished", "2"),
        ("solu-w24-d1-s0", "finished", "2"),
    ]
    assert rows[1]["val_loss"] == table(tmp_path / "first")[1]["val_loss"]


@pytest.mark.slow
def test_optuna_searches_for_the_lowest_metric(tmp_path: Path) -> None:
    changes = {"name": "null", "trainer__max_steps": 2, "trainer__val_check_interval": 2, "schedule__every": 2}
    overrides = [*tiny_overrides(tmp_path, **changes), "~callbacks.tracker", "hydra.sweep.dir=search"]
    search = ["hparams_search=optuna", "hydra.sweeper.n_trials=2"]
    command = train("-m", *search, *overrides, folder=tmp_path)
    assert command.returncode == 0, command.stderr
    results = OmegaConf.load(tmp_path / "search" / "optimization_results.yaml")
    losses = [float(row["val_loss"]) for row in table(tmp_path / "search")]
    assert len(losses) == 2 and results.best_value == pytest.approx(min(losses), abs=1e-3)


def test_a_job_that_was_killed_is_not_called_running(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, status in enumerate(["finished", "running"]):
        (tmp_path / str(number)).mkdir()
        write_json(tmp_path / str(number) / "status.json", {"run": f"run{number}", "status": status})
    sweep = SweepTable()
    sweep.on_multirun_start(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    sweep.show()
    assert [row["status"] for row in table(tmp_path)] == ["finished", "killed"]
    assert "killed" in capsys.readouterr().out


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "table.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_precision_and_compile_are_chosen_by_rule_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    net, tokens = torch.nn.Identity(), torch.zeros(1, 3, dtype=torch.long)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    single, half = Precision("32-true", "", 0.1), Precision("bf16-mixed", "", 0.1)
    assert choose_precision("bf16-mixed", net, tokens, cpu) == Precision("bf16-mixed", "asked for")
    assert [choose_compile(asked, 10, cpu, single)[0] for asked in (True, False, "auto")] == [True, False, False]
    assert [choose_compile("auto", steps, cuda, half)[0] for steps in (10, 10_000)] == [False, True]
    assert [choose_compile("auto", steps, cpu, half)[0] for steps in (300, 10_000)] == [False, True]
    assert choose_compile("auto", 10_000, cpu, single)[0] is False
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match="compile=true: torch.compile needs a C"):
        choose_compile(True, 10, cpu, single)


def test_the_faster_precision_of_one_step_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    net, tokens, cpu = torch.nn.Identity(), torch.zeros(1, 3, dtype=torch.long), torch.device("cpu")
    monkeypatch.setattr("launch.machine.product_seconds", lambda dtype: 1.0 if dtype == torch.float32 else 0.5)
    monkeypatch.setattr("launch.machine.step_seconds", lambda net, tokens, dtype: 0.2 if dtype is None else 0.1)
    assert choose_precision("auto", net, tokens, cpu).chosen == "bf16-mixed"
    monkeypatch.setattr("launch.machine.product_seconds", lambda dtype: 1.0 if dtype == torch.float32 else 200.0)
    assert choose_precision("auto", net, tokens, cpu) == Precision(
        "32-true", "matrix products in bf16 take 200.0 times as long on this machine"
    )


def test_runs_of_one_shape_train_in_one_precision(tmp_path: Path) -> None:
    """The first choice stays even if the next measurement would differ by chance."""
    first, second = Precision("bf16-mixed", "faster", 0.1), Precision("32-true", "faster", 0.2)
    assert kept_precision(tmp_path / "cache", "width 64", lambda: first) == first
    again = kept_precision(tmp_path / "cache", "width 64", lambda: second)
    assert (again.chosen, again.step_seconds) == ("bf16-mixed", 0.1)
    assert "measured before" in again.why and "precision.json" in again.why
    assert kept_precision(tmp_path / "cache", "width 128", lambda: second) == second
    (tmp_path / "cache" / "precision.json").write_text('{"damaged')
    assert kept_precision(tmp_path / "cache", "width 64", lambda: second) == second


def test_a_cache_in_which_no_file_can_be_made_gives_an_error_without_an_endless_wait(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cache_lock(tmp_path / "gone" / "x.lock").acquire(timeout=5)


def test_the_timed_step_leaves_the_net_as_it_was() -> None:
    net = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Linear(4, 7))
    before = [parameter.clone() for parameter in net.parameters()]
    assert step_seconds(net, torch.randint(7, (2, 5)), torch.bfloat16) > 0
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
