"""A page as one file: HTML, data and scripts, under a policy that allows these scripts and nothing else."""

import base64
import hashlib
import json
import logging
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from dissimilarity.report.content import Content, content_of
from dissimilarity.report.folders import read_folder
from dissimilarity.tables.files import replacing

FILE = "report.html"
"""Name of the page in the folder that it shows."""
SCRIPTS = (("vega.min.js",), ("vega-lite.min.js",), ("vega-embed.min.js",), ("figures.js", "report.js"))
"""The scripts of a page in their order; files of one script share its names."""

log = logging.getLogger(__name__)


def write_page(folders: Sequence[Path], path: Path) -> Path:
    """Write a page that shows what folders hold, and return its path.

    The file is replaced in one step: a browser that reads it meanwhile gets the old page or the new one.

    Args:
        folders: folders of runs, or of the results of a study or a comparison.
        path: the file.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_page([Path(folder)], Path(folder) / "report.html").name
        'report.html'
    """
    text = page_of(content_of([read_folder(folder) for folder in folders], path.parent))
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def refresh(folder: Path) -> None:
    """Write the page of one folder into it; a fault is a warning."""
    try:
        write_page([folder], folder / FILE)
    except Exception as error:
        log.warning("could not write %s: %s: %s", folder / FILE, type(error).__name__, error)


def page_of(content: Content) -> str:
    """Return the HTML of a page."""
    scripts = _scripts()
    blocks = [
        f'<script type="application/json" id="{escape(name)}">{as_json(data)}</script>'
        for name, data in content.blocks.items()
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy(scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(content.title)}</title>",
            f"<style>{_asset('report.css')}</style>",
            "</head>",
            "<body>",
            *content.sections,
            *blocks,
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>",
            "",
        ]
    )


def policy(scripts: Sequence[str]) -> str:
    """Return the policy under which a browser runs these scripts and loads nothing."""
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )


def as_json(data: Any) -> str:
    r"""Return data as JSON that cannot end the element that it stands in.

    Examples:
        >>> as_json({"name": "</script>"})
        '{"name":"\\u003c/script>"}'
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


@cache
def _scripts() -> tuple[str, ...]:
    return tuple("\n".join(map(_asset, names)) for names in SCRIPTS)


@cache
def _asset(name: str) -> str:
    return (files("dissimilarity.report") / "assets" / name).read_text(encoding="utf-8")


@cache
def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
