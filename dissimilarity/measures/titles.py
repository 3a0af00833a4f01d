"""What figures and tables for readers call a measure, found by its label, which is all that a table has."""

from collections.abc import Iterator

from dissimilarity.measures.base.measure import Measure
from dissimilarity.measures.catalog import measure_classes


def title(label: str) -> str:
    """Return what figures call the value of a measure.

    Examples:
        >>> title("cka_biased"), title("procrustes_crossfit"), title("mine")
        ('CKA (biased)', 'Procrustes angle (rad, crossfit)', 'mine')
    """
    kind, stem = _found(label)
    if kind is None:
        return label
    setting = label.removeprefix(stem).strip("_").replace("_", " ")
    words = kind.titles[stem]
    if setting and words.endswith(")"):
        return f"{words[:-1]}, {setting})"
    return f"{words} ({setting})" if setting else words


def dissimilarity_title(label: str) -> str:
    """Return what figures call the dissimilarity by a measure.

    Examples:
        >>> dissimilarity_title("cka"), dissimilarity_title("procrustes"), dissimilarity_title("mine")
        ('1 - CKA', 'Procrustes angle (rad)', 'dissimilarity by mine')
    """
    kind, _ = _found(label)
    if kind is None:
        return f"dissimilarity by {label}"
    return f"{kind.identical:g} - {title(label)}" if kind.higher_is_more_similar else title(label)


def _found(label: str) -> tuple[type[Measure] | None, str]:
    """Return the class with the longest beginning of a label, at the end of a word, and that beginning."""
    measure_classes()  # imports them
    stems = {stem: kind for kind in _subclasses(Measure) for stem in kind.titles if f"{label}_".startswith(f"{stem}_")}
    stem = max(stems, key=len, default="")
    return stems.get(stem), stem


def _subclasses(kind: type[Measure]) -> Iterator[type[Measure]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
