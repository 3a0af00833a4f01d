"""The tutorials run as they stand, command by command and block by block, with smaller trainings."""

import shlex
from pathlib import Path

import pytest

import analyze
import train
from dissimilarity.cli import command as shell
from tests.helpers.pages import ROOT, Block, blocks_of
from tests.helpers.tiny_run import forked_command, tiny_overrides, warm_up

PAGES = ROOT / "docs" / "tutorials"
TUTORIALS = ["researcher.md", "finetuning.md", "engineer.md"]
"""In an order in which each finds what an earlier one has trained."""
FEWER = {
    '"results/export/gelu-w64-d4-s0", 200': '"results/export/gelu-w64-d4-s0", 4',
    "[:600_000]": "[:60_000]",
    "fit(100)": "fit(3)",
    "fit(200,": "fit(5,",
    "every_n_train_steps=20": "every_n_train_steps=1",
}
"""What a block says, and what it says here."""
FASTER = ["figures.formats=[png]"]
"""Overrides of analyze.py: a PDF takes twice as long as the same figure as a PNG, for the fonts in it."""
OURS = ("width", "depth", "model.d_head", "name", "runs_dir")
"""Keys that a tutorial chooses itself."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which all tutorials run: what one has trained, the next one finds."""
    warm_up()
    return tmp_path_factory.mktemp("tutorials")


def smaller(home: Path) -> list[str]:
    """Return overrides that make a training of a tutorial one of a few steps."""
    changes = {"data__n_ctx": 32, "trainer__max_steps": 2, "schedule__every": 1, "schedule__heatmap_every": 2}
    return [text for text in tiny_overrides(home, **changes) if text.split("=")[0] not in OURS]


def run_line(line: str, home: Path) -> None:
    """Run a command of a page."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "dissimilarity":
        assert shell.main(arguments) == 0, line
        return
    module = {"train.py": train, "analyze.py": analyze}[arguments[0]]
    done = forked_command(module, [*arguments[1:], *(smaller(home) if module is train else FASTER)], home)
    assert done.returncode == 0, done.stderr


def run_block(block: Block, home: Path, names: dict[str, object]) -> None:
    """Run a block of a page."""
    text = block.text
    for much, few in FEWER.items():
        text = text.replace(much, few)
    if block.language == "python":
        exec(compile(text, block.page, "exec"), names)
    elif block.language in ("bash", "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            run_line(line, home)


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_runs(page: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page == "finetuning.md":
        pytest.importorskip("peft")
    monkeypatch.chdir(home)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(PAGES / page):
        run_block(block, home, names)


def test_every_tutorial_is_run_and_linked() -> None:
    assert {path.name for path in PAGES.glob("*.md")} == set(TUTORIALS)
    for name in TUTORIALS:
        assert f"(docs/tutorials/{name})" in (ROOT / "README.md").read_text()
    text = "".join((PAGES / name).read_text() for name in TUTORIALS)
    assert all(text.count(much) == 1 for much in FEWER)
