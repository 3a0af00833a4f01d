"""List every measure of the package: `python -m dissimilarity.measures.catalog` prints docs/measures.md."""

import importlib
import inspect
import pkgutil

from dissimilarity import measures
from dissimilarity.measures.base.measure import INVARIANCES, Measure
from dissimilarity.measures.base.moment_measure import MomentMeasure
from dissimilarity.measures.base.output_measure import OutputMeasure

HEAD = """# Measures

`python -m dissimilarity.measures.catalog > docs/measures.md` generates this page from the classes, and a test keeps the
two equal.

x (n, p) and y (n, q) hold the same n samples. Widths may differ unless a line says otherwise. Xc is column-centered X.
Values are those of the literature. `to_dissimilarity(value)` maps each: 0 = identical, larger = more different.
Tests check everything that a line claims: direction, bounds, symmetry, metric, the invariances that are named and those
that are not, and the minimum number of samples. They also compare each value with an independent computation in
float64, and with other packages where these are correct.

The table shows each class with its defaults. *streams*: exact over any number of samples, from sums in O(p q) memory.
*samples*: on a bounded, seeded subsample. *outputs*: on two models' logits, which must have the same classes.
Invariances hold for either side: O orthogonal maps, S isotropic scaling, T translation, P permutation of dimensions,
L invertible linear maps.
"""

INITIALS = {"orthogonal": "O", "isotropic_scaling": "S", "translation": "T", "permutation": "P"}
INITIALS |= {"invertible_linear": "L"}


def measure_classes() -> dict[type[Measure], str]:
    """Return every concrete measure class, with the name of the module in dissimilarity/measures that defines it.

    Examples:
        >>> from dissimilarity import CKA
        >>> measure_classes()[CKA]
        'cka'
    """
    names = [module.name for module in pkgutil.iter_modules(measures.__path__)]
    modules = [importlib.import_module(f"dissimilarity.measures.{name}") for name in names]
    return {
        member: module.__name__.rsplit(".", 1)[-1]
        for module in modules
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Measure) and member.__module__ == module.__name__ and not inspect.isabstract(member)
    }


def page() -> str:
    """Return the text of docs/measures.md: a table of all measures, then the docstring of each class."""
    classes = measure_classes()
    header = "| class | function | same | bounds | symmetric | metric | invariant to | minimum n | kind |"
    lines = [HEAD, header, "|" + " --- |" * 9, *(_line(kind, name) for kind, name in classes.items()), ""]
    for kind, name in classes.items():
        lines += [f"## {kind.__name__}", "", f"`{_call(kind)}`, `functional.{name}`", ""]
        lines += [_as_markdown(inspect.cleandoc(kind.__doc__ or "")), ""]
        lines += [f"- Formula: {kind.formula}", f"- Cost: {kind.cost}", f"- Source: {kind.source}", ""]
    return "\n".join(lines).rstrip() + "\n"


def _line(kind: type[Measure], name: str) -> str:
    measure = kind()
    low, high = (f"{bound:.4g}" for bound in measure.bounds)
    invariances = " ".join(INITIALS[name] for name in INVARIANCES if name in measure.invariant_to) or "none"
    cells = [
        f"[{kind.__name__}](#{kind.__name__.lower()})",
        f"`{name}`",
        f"{measure.identical:g}",
        f"[{low}, {high}]",
        "yes" if measure.is_symmetric else "no",
        "yes" if measure.is_metric else "no",
        invariances,
        str(measure.minimum_samples),
        "streams" if issubclass(kind, MomentMeasure) else "outputs" if issubclass(kind, OutputMeasure) else "samples",
    ]
    return "| " + " | ".join(cells) + " |"


def _as_markdown(docstring: str) -> str:
    """Return a docstring with its arguments as a list."""
    text, _, arguments = docstring.partition("\nArgs:\n")
    lines = [line.removeprefix("    ") for line in arguments.splitlines()]
    items = [line if line.startswith(" ") else f"- `{line.replace(': ', '`: ', 1)}" for line in lines]
    return "\n".join([text, *([""] if items and not text.endswith("\n") else []), *items])


def _call(kind: type[Measure]) -> str:
    """Return how the class is called: its parameters and their defaults."""
    parameters = inspect.signature(kind).parameters.values()
    arguments = ", ".join(f"{parameter.name}={parameter.default!r}" for parameter in parameters)
    return f"{kind.__name__}({arguments})".replace("'", '"')


if __name__ == "__main__":
    print(page(), end="")
