"""The fenced blocks of README.md and docs/, which tests run."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    """One fenced block: its page, the nearest heading above it, its language and its text."""

    page: str
    heading: str
    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    blocks, heading = [], ""
    for line in re.finditer(r"^#+ (?P<heading>.*)$|^```(?P<language>\w*)\n(?P<text>.*?)^```$", page.read_text(), re.M | re.S):
        if line["heading"] is not None:
            heading = line["heading"]
        else:
            blocks.append(Block(page.name, heading, line["language"], line["text"]))
    return blocks


def block(page: str, heading: str, language: str) -> str:
    """Return the text of the one block of a language under a heading."""
    (text,) = [b.text for b in blocks_of(ROOT / page) if (b.heading, b.language) == (heading, language)]
    return text
