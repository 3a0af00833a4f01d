"""The grammar of heuristics: what is ambiguous where, balance, no sentence in two splits, and the same each time."""

import re
from collections import Counter
from itertools import combinations

import pytest

from data.examples import Example
from data.examples.heuristics import Heuristics

SIZES = {"train": 2400, "val": 600, "ood": 300}
NAMES = ("lexical_overlap", "subsequence", "constituent")
OOD = [f"{name}.{label}" for name in NAMES for label in ("entailment", "non_entailment")]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Example]]:
    return Heuristics(**SIZES).splits()


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def overlaps(example: Example) -> bool:
    """Whether all words of the hypothesis are in the premise."""
    assert example.pair
    return set(words(example.pair)) <= set(words(example.text))


def accuracy_of_overlap(examples: list[Example]) -> float:
    return sum(overlaps(example) == (example.label == "entailment") for example in examples) / len(examples)


def test_overlap_is_always_right_in_distribution_and_always_wrong_without_entailment(splits):
    assert list(splits) == ["train", "val", *OOD]
    expected = {split: 0.0 if split.endswith("non_entailment") else 1.0 for split in splits}
    assert {split: accuracy_of_overlap(examples) for split, examples in splits.items()} == expected


def test_labels_and_kinds_are_balanced(splits):
    assert {split: len(examples) for split, examples in splits.items()} == {
        split: SIZES.get(split, SIZES["ood"]) for split in splits
    }
    for split in ("train", "val"):
        counts = Counter((example.subcase, example.label) for example in splits[split])
        assert len(counts) == 60 and set(counts.values()) == {SIZES[split] // 60}
    for split in OOD:
        assert {example.label for example in splits[split]} == {split.split(".")[1].replace("_", "-")}
        counts = Counter(example.subcase for example in splits[split])
        assert set(counts.values()) == {60} and len(counts) == 5
        assert all(subcase.startswith(split) for subcase in counts)


def test_no_pair_twice_and_no_sentence_in_two_splits(splits):
    for examples in splits.values():
        assert len({(example.text, example.pair) for example in examples}) == len(examples)
    sentences = [{text for e in examples for text in (e.text, e.pair)} for examples in splits.values()]
    assert not any(one & other for one, other in combinations(sentences, 2))
