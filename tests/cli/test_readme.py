"""README.md, CONTRIBUTING.md and docs/ hold: commands compose, Python runs, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra._internal.utils import get_args_parser

import dissimilarity
from dissimilarity import CKA, Tokenized, align, compare
from dissimilarity.cli.command import parser
from dissimilarity.tables.curves import Curves
from launch.cli.check import check
from launch.cli.command import flags_first
from tests.helpers.families import family_net
from tests.helpers.intervals import SENTENCES, sentences_in
from tests.helpers.pages import PAGES, ROOT, block, blocks_of
from tests.instrument.tables.test_curves import row

COMMANDS = [
    (fenced.page, line)
    for page in PAGES
    for fenced in blocks_of(page)
    if fenced.language == "bash"
    for line in fenced.text.replace("\\\n", " ").splitlines()
    if line.startswith(("python train.py", "python analyze.py"))
]


SHELL = [
    line
    for page in PAGES
    for fenced in blocks_of(page)
    if fenced.language == "sh"
    for line in fenced.text.splitlines()
    if line.startswith("dissimilarity ")
]


@pytest.mark.parametrize("command", SHELL)
def test_each_command_of_the_library_parses(command: str) -> None:
    _, *arguments = shlex.split(command, comments=True)
    options = parser().parse_args(arguments)
    assert options.a if options.command == "compare" else options.folders


def test_every_code_block_has_a_language() -> None:
    blocks = [fenced for page in PAGES for fenced in blocks_of(page)]
    assert len(blocks) > 20
    assert not [fenced for fenced in blocks if not fenced.language]
    assert not [page.name for page in PAGES if re.search(r"^ +python \w+\.py", page.read_text(), re.MULTILINE)]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_each_command_composes(page: str, command: str) -> None:
    """These are the lines that a reader copies. Running them takes minutes; .ci/run trains from the command line."""
    _, program, *arguments = shlex.split(command, comments=True)
    args = get_args_parser().parse_args(flags_first(arguments))
    if not args.help:
        check(args, program.removesuffix(".py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_has_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            linked = page.parent / file if file else page
            assert linked.exists(), target
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE) if anchor else []
            assert not anchor or anchor in {_anchor(heading) for heading in headings}, target


def test_the_figure_is_small() -> None:
    assert (ROOT / "docs" / "curves.png").stat().st_size < 150_000


def test_the_ten_lines_of_the_library_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = block("README.md", "The library in ten lines", "python")
    names = {"x": torch.randn(200, 6), "y": torch.randn(200, 9), "model": family_net("solu"), **_two_models()}
    exec(text, names)
    assert len([line for line in text.splitlines() if line.strip()]) <= 12
    assert names["activations"] and (tmp_path / "a_b.pdf").exists()


def test_the_minute_of_the_first_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block("docs/index.md", "In a minute", "python"), {})
    assert "cka 0." in capsys.readouterr().out


def test_the_page_of_the_interface_has_all_of_it_and_the_site_has_all_pages() -> None:
    shown = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert {f"{module}.{name}" for name, module in dissimilarity._MODULES.items()} <= set(shown)
    assert len(shown) == len(set(shown))
    nav = re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = (ROOT / "docs").rglob("*.md")
    assert sorted(nav) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in pages)


def test_the_lines_on_differences_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for run in "ad":
        curves = Curves(tmp_path / "runs" / run)
        curves.folder.mkdir(parents=True)
        curves.append([row(step, reference=label) for step in (400, 800) for label in ("runs/b", "runs/c")])
    exec(block("docs/concepts.md", "Differences on one probe set", "python"), {})


def test_every_kind_of_interval_is_explained() -> None:
    assert sentences_in((ROOT / "docs" / "concepts.md").read_text()) == SENTENCES


def test_the_lines_on_other_tokenizers_run() -> None:
    texts = ["one two three four five six seven"] * 16
    spans = [(start.start(), start.end()) for start in re.finditer(r"\w+", texts[0])]
    tokens, all_spans = torch.randint(61, (16, len(spans))), torch.tensor([spans] * 16)
    names = {"tokens_a": tokens, "tokens_b": tokens, "spans_a": all_spans, "spans_b": all_spans, "texts": texts}
    names |= {"mask_b": torch.ones(tokens.shape, dtype=torch.bool), **_two_models()}
    exec(block("docs/comparing.md", "From Python", "python"), names)
    assert names["table"].num_rows
    alignment = align(Tokenized(tokens, all_spans), Tokenized(tokens, all_spans), texts)
    names |= {"fit": alignment, "held_out": alignment, "front": names["model_a"], "back": names["model_b"]}
    exec(block("docs/comparing.md", "Stitching", "python"), names)


def test_the_lines_on_notebooks_and_papers_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models = _two_models()
    table = compare(models["model_a"], models["model_b"], models["tokens"], measures=[CKA()])  # pyright: ignore
    exec(block("docs/comparing.md", "In a notebook and a paper", "python"), {"table": table})
    assert {path.name for path in tmp_path.iterdir()} == {"table.tex", "table.csv", "map.pdf"}


def test_the_lines_on_padding_run() -> None:
    names = {"mask": torch.arange(24)[None] < torch.arange(9, 25)[:, None], **_two_models()}
    exec(block("docs/comparing.md", "Padding", "python"), names)
    assert names["table"].num_rows


def _two_models() -> dict[str, object]:
    """Return two small models of different families and what they run on."""
    models = {"model_a": family_net("solu"), "model_b": family_net("gelu", seed=1)}
    return {**models, "tokens": torch.randint(61, (16, 24)), "held_out": torch.randint(61, (4, 24))}


def _anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
