"""Who may import whom, read from the source: no arrow runs up, no circle, and the instrument stands alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"tests"}
HEAVY = {"torch", "pytorch_lightning", "lightning", "torchmetrics", "wandb", "datasets", "transformers", "matplotlib"}
FRAMEWORKS = {"pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb"}

ALLOWED = {
    "dissimilarity": {"dissimilarity"},
    "callbacks": {"dissimilarity"},
    "models": {"models", "settings", "reading", "trusted"},
    "data": {"data", "settings", "reading", "trusted"},
    "studies": {"studies", "dissimilarity", "models", "data", "settings", "launch", "reading", "trusted"},
}


def sources(folder: str = "") -> list[Path]:
    """Every Python file below a folder of the repository, generated folders left out."""
    skipped = {"runs", "sweeps", "results", "cache", "build", "dist", "outputs", "multirun"}
    found = (ROOT / folder).rglob("*.py")
    return [
        path
        for path in sorted(found)
        if not any(part in skipped or part.startswith((".", "venv")) for part in path.relative_to(ROOT).parts)
    ]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """The top-level package of each absolute import, the dots of each relative one, and their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level or (node.module or "").split(".")[0]), node.lineno


def broken(folder: str, forbidden: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(folder)
        for name, line in imports(path)
        if name in forbidden
    ]


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    assert sources(package)
    assert not broken(package, OURS - ALLOWED[package])


def test_the_instrument_knows_no_framework() -> None:
    assert not broken("dissimilarity", FRAMEWORKS)


@pytest.mark.parametrize("package", ["callbacks"])
def test_relative_imports_stay_inside_the_package(package: str) -> None:
    """Callbacks also run as ``dissimilarity.callbacks``: two dots would be another package there."""
    assert not broken(package, {"..", "..."})


def test_nothing_imports_from_tests() -> None:
    helpers = {path.stem for path in (ROOT / "tests").glob("*.py")} | {"tests"}
    outside = [path for path in sources() if path.relative_to(ROOT).parts[0] != "tests"]
    assert len(outside) > 30
    assert not [(path, name) for path in outside for name, _ in imports(path) if name in helpers]


@pytest.mark.parametrize("module", ["settings", "train", "analyze", "studies.compare.study"])
def test_nothing_heavy_is_imported_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules.keys() & {HEAVY!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()


def test_annotations_are_not_postponed() -> None:
    """``from __future__ import annotations`` would turn the run-time checks of shapes off."""
    assert not broken("", {"__future__"})
