"""Who may import whom, read from the source: no arrow runs up, no circle, and the instrument stands alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"tests"}
HEAVY = {"torch", "pytorch_lightning", "lightning", "torchmetrics", "wandb", "datasets", "transformers", "matplotlib"}
FRAMEWORKS = {"pytorch_lightning", "lightning", "hydra", "omegaconf", "wandb"}

INSTRUMENT = {
    "capture": set(),
    "tables": {"capture"},
    "probe": {"capture"},
    "moments": {"probe"},
    "inference": {"tables", "moments"},
    "measures/numerics": {"moments"},
    "measures/base": {"capture", "probe", "moments", "inference", "measures/numerics"},
    "measures": {"probe", "moments", "inference", "measures/numerics", "measures/base"},
    "comparison": {
        *("capture", "tables", "probe", "moments", "inference", "measures", "measures/base", "measures/numerics"),
        "figures",
    },
    "stitching": {"capture", "probe", "moments"},
    "figures": {"capture", "tables", "probe", "inference", "measures"},
    "loading": {"capture", "tables"},
    "report": {"capture", "tables", "inference", "measures", "figures", "loading"},
    "tracking": {
        *("capture", "tables", "probe", "moments", "inference", "measures/base", "comparison", "stitching", "figures"),
        *("loading", "report"),
    },
    "cli": {
        *("capture", "tables", "probe", "moments", "inference", "measures", "measures/base", "comparison", "figures"),
        *("loading", "report"),
    },
}
"""Which rooms of `dissimilarity/` a room imports, beside its own files."""

APPLICATION = {
    "settings": set(),
    "dissimilarity": set(),
    "trusted": {"dissimilarity"},
    "data": {"settings", "trusted", "dissimilarity"},
    "models": {"settings", "trusted", "dissimilarity"},
    "callbacks": {"dissimilarity"},
    "launch": {"settings", "trusted", "dissimilarity", "data", "models", "callbacks"},
    "studies": {"settings", "trusted", "dissimilarity", "data", "models", "callbacks", "launch"},
    "train": {"settings", "trusted", "dissimilarity", "data", "models", "callbacks", "launch"},
    "analyze": {"settings", "trusted", "callbacks", "launch", "studies"},
    "examples": {"dissimilarity"},
    "docs": set(),
    "benchmarks": {"settings", "dissimilarity", "data", "models", "callbacks", "launch", "studies", "train"},
}
"""Which packages and modules of the repository one imports, beside itself; tests import all, and nothing imports them.
"""


def sources(folder: str = "") -> list[Path]:
    """Return every Python file below a folder of the repository, without generated folders."""
    skipped = {"runs", "sweeps", "results", "cache", "build", "dist", "outputs", "multirun"}
    paths = (ROOT / folder).rglob("*.py")
    return [
        path
        for path in sorted(paths)
        if not any(part in skipped or part.startswith((".", "venv")) for part in path.relative_to(ROOT).parts)
    ]


def modules(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the dotted name and line of each imported module; `from a import b` yields `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: expected an absolute import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def package(module: str) -> str:
    """Return the top of a dotted name."""
    return module.split(".")[0]


def room(module: str) -> str | None:
    """Return the folder of the instrument that a dotted name is in; None outside of the listed folders."""
    parts = module.split(".")
    inside = next(
        (name for name in sorted(INSTRUMENT, reverse=True) if parts[1:][: name.count("/") + 1] == name.split("/")), None
    )
    return inside if parts[0] == "dissimilarity" else None


def broken(folder: str, forbidden: set[str]) -> list[str]:
    """Return the imports of forbidden packages anywhere below a folder."""
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sources(folder)
        for module, line in modules(path)
        if package(module) in forbidden
    ]


def test_every_folder_is_in_the_table() -> None:
    folders = {path.parent.relative_to(ROOT / "dissimilarity").as_posix() for path in sources("dissimilarity")}
    assert folders - {"."} == set(INSTRUMENT)
    assert {package(path.relative_to(ROOT).as_posix().replace("/", ".").removesuffix(".py")) for path in sources()} == {
        *APPLICATION,
        "tests",
        "hatch_build",
    }


@pytest.mark.parametrize("name", INSTRUMENT)
def test_a_folder_imports_only_what_it_may(name: str) -> None:
    files = [path for path in sources(f"dissimilarity/{name}") if path.parent == ROOT / "dissimilarity" / name]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files
        for module, line in modules(path)
        if package(module) == "dissimilarity" and room(module) not in {name, *INSTRUMENT[name]}
    ]
    assert files and not wrong


@pytest.mark.parametrize("name", APPLICATION)
def test_a_package_imports_only_what_it_may(name: str) -> None:
    paths = sources(name) or [ROOT / f"{name}.py"]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in paths
        for module, line in modules(path)
        if package(module) in OURS - {name, *APPLICATION[name]}
    ]
    assert not wrong


def test_no_imports_are_circular() -> None:
    for table in (INSTRUMENT, APPLICATION):
        tuple(TopologicalSorter(table).static_order())


def test_the_instrument_knows_no_framework() -> None:
    """Only ``dissimilarity/lightning.py`` does, and it knows PyTorch Lightning alone."""
    adapter = "dissimilarity/lightning.py:"
    assert not [line for line in broken("dissimilarity", FRAMEWORKS) if not line.startswith(adapter)]
    assert all("pytorch_lightning" in line for line in broken("dissimilarity", FRAMEWORKS))


def test_nothing_imports_from_tests() -> None:
    outside = [path for path in sources() if path.relative_to(ROOT).parts[0] != "tests"]
    assert len(outside) > 30
    assert not [(path, module) for path in outside for module, _ in modules(path) if package(module) == "tests"]


@pytest.mark.parametrize("module", ["settings", "train", "analyze"])
def test_nothing_heavy_is_imported_before_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules.keys() & {HEAVY!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()


def test_annotations_are_not_postponed() -> None:
    """``from __future__ import annotations`` would turn the run-time checks of shapes off."""
    assert not broken("", {"__future__"})
