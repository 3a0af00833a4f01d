"""Commands in README.md and docs/ are valid, and the Python code of README.md runs."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra._internal.utils import get_args_parser

from launch.cli.command import flags_first
from launch.cli.compose import check
from tests.helpers.families import family_net

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("&&")[-1]
    for page in (README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))))
    for line in page.splitlines()
    if re.match(r"    (pip .*&& )?python (train|analyze)\.py", line)
]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_composes(command: str) -> None:
    """Return the commands that a reader copies; running them takes minutes, and .ci/run does train."""
    _, program, *arguments = shlex.split(command, comments=True)
    args = get_args_parser().parse_args(flags_first(arguments))
    if not args.help:
        check(args, program.removesuffix(".py"))


def test_each_choice_in_the_table_of_keys_exists() -> None:
    """Check tables with `group=` in the first column and its choices in the second."""
    conf = Path(__file__).parents[2] / "conf"
    rows = re.findall(r"^\| `(\w+)=` \| (.*?) \|", README, re.MULTILINE)
    assert len(rows) >= 4
    for group, choices in rows:
        for choice in re.findall(r"`([a-z_0-9]+)`", choices):
            assert (conf / group / f"{choice}.yaml").exists(), f"{group}={choice}"


def test_the_snippet_of_the_instrument_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"## The instrument alone\n\n((?:    .*\n|\n)+)", README)
    names = {
        "x": torch.randn(200, 6),
        "y": torch.randn(200, 9),
        "model": family_net("solu"),
        "model_a": family_net("solu"),
        "model_b": family_net("gelu", seed=1),
        "tokens": torch.randint(61, (16, 24)),
        "held_out": torch.randint(61, (4, 24)),
    }
    exec(re.sub(r"^    ", "", snippet, flags=re.MULTILINE), names)
    assert names["acts"]
