"""Each picture of the documentation is in one list, with the commands that its page shows."""

import re
import shlex
from pathlib import Path

import pytest

from docs.figures import PICTURES, ROOT, Picture, arguments_of
from tests.helpers.pages import PAGES, blocks_of

DOCS = ROOT / "docs"


def pictures_of(page: Path) -> list[str]:
    """Return the pictures that a page shows, by their place below docs/."""
    links = re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", page.read_text())
    return [(page.parent / link).resolve().relative_to(DOCS).as_posix() for link in links if "://" not in link]


def commands_of(page: Path) -> set[str]:
    """Return the commands of a page, and its blocks of Python."""
    blocks = blocks_of(page)
    lines = {
        " ".join(line.split())
        for block in blocks
        if block.language in ("bash", "sh")
        for line in block.text.replace("\\\n", " ").splitlines()
    }
    return lines | {block.text for block in blocks if block.language == "python"}


def test_every_picture_is_in_the_list_and_shown() -> None:
    shown = {file for page in PAGES for file in pictures_of(page)}
    assert shown == {picture.file for picture in PICTURES}
    assert all((DOCS / file).is_file() for file in shown)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.file)
def test_a_page_that_shows_it_has_its_commands(picture: Picture) -> None:
    pages = [page for page in PAGES if picture.file in pictures_of(page)]
    assert any(commands_of(page) >= set(picture.commands) for page in pages)


def test_the_gallery_shows_no_other_commands() -> None:
    listed = {command for picture in PICTURES for command in picture.commands}
    assert commands_of(DOCS / "gallery.md") <= listed


def test_pictures_are_small_and_none_lies_unused() -> None:
    files = {path.relative_to(DOCS).as_posix(): path.stat().st_size for path in DOCS.rglob("*.png")}
    assert set(files) == {picture.file for picture in PICTURES}
    assert sum(files.values()) < 1_500_000


def test_commands_run_the_programs_of_this_clone() -> None:
    for picture in PICTURES:
        for command in picture.commands:
            program, *arguments = arguments_of(command)
            if "\n" in command:
                compile(arguments[1], picture.file, "exec")
            else:
                assert (arguments[0] in ("-m", str(ROOT / "train.py"), str(ROOT / "analyze.py"))) == (
                    shlex.split(command)[0] != "chromium"
                )
                assert program
