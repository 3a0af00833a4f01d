"""Studies whose figures are made, and not drawn: drawing takes most of the time of a small study."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dissimilarity.figures import figure as figures


@pytest.fixture(scope="module", autouse=True)
def blank_figures() -> Iterator[Any]:
    """Write empty files in place of figures, whose own tests lay them out; return what would draw them."""

    def write_blank(figure: Any, folder: Path, name: str, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}.{suffix}" for suffix in formats]
        for path in paths:
            path.touch()
        return paths

    with pytest.MonkeyPatch.context() as patch:
        write_figure = figures.write_figure
        patch.setattr(figures, "write_figure", write_blank)
        yield write_figure
