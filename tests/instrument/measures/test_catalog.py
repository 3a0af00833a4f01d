"""docs/measures.md is what the classes say."""

from pathlib import Path

from dissimilarity.measures.catalog import measure_classes, page

DOCS = Path(__file__).parents[3] / "docs" / "measures.md"


def test_the_page_of_measures_is_made_from_the_classes() -> None:
    assert DOCS.read_text() == page(), "python -m dissimilarity.measures.catalog > docs/measures.md"


def test_every_measure_says_what_it_is() -> None:
    for kind in measure_classes():
        assert kind.__doc__ and kind.formula and kind.cost and kind.source, kind.__name__
