"""The fenced blocks of README.md and docs/, which tests run."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# The block comes first, because lines of it may begin with `#`.
BLOCK_OR_HEADING = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$|^#+ (?P<heading>[^\n]*)$", re.M | re.S)


class Block(NamedTuple):
    """One fenced block: its page, the nearest heading above it, its language and its text."""

    page: str
    heading: str
    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    blocks, heading = [], ""
    for part in BLOCK_OR_HEADING.finditer(page.read_text()):
        if part["language"] is None:
            heading = part["heading"]
        else:
            blocks.append(Block(page.name, heading, part["language"], part["text"]))
    return blocks


def block(page: str, heading: str, language: str) -> str:
    """Return the text of the one block of a language under a heading."""
    (text,) = [b.text for b in blocks_of(ROOT / page) if (b.heading, b.language) == (heading, language)]
    return text
