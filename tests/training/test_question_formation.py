"""The auxiliary that begins a question: where the two rules agree or differ, balance and determinism."""

import re
from collections import Counter
from itertools import combinations

import pytest

from data.examples import Example, digest
from data.examples.question_formation import AUXILIARIES, QuestionFormation

SIZES = {"train": 2000, "val": 400, "ood": 200}
ANY = "|".join(AUXILIARIES)


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Example]]:
    return QuestionFormation(**SIZES).splits()


def linear(text: str) -> str:
    """Return the first auxiliary."""
    return next(word for word in text.split() if word in AUXILIARIES)


def hierarchical(text: str) -> str:
    """Return the auxiliary of the main clause: the first one outside of a relative clause of the subject."""
    clause = rf"^(the \w+) (?:who|that) (?:{ANY}) \w+ (?:in )?the \w+ (?={ANY})"
    return linear(re.sub(clause, r"\1 ", text, flags=re.IGNORECASE))


def right(rule, examples: list[Example]) -> float:
    return sum(rule(example.text) == example.label for example in examples) / len(examples)


def test_the_rules_agree_in_distribution_and_differ_outside(splits):
    assert list(splits) == ["train", "val", "subject_clause", "both_clauses"]
    assert [right(linear, examples) for examples in splits.values()] == [1, 1, 0, 0]
    assert [right(hierarchical, examples) for examples in splits.values()] == [1, 1, 1, 1]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_counterexamples_have_the_requested_share_and_change_nothing_else(splits, share):
    changed = QuestionFormation(**SIZES, counterexamples=share, seed=5).splits()
    assert right(linear, changed["train"]) == 1 - share
    assert right(hierarchical, changed["train"]) == 1
    for split in ("val", "subject_clause", "both_clauses"):
        assert digest(changed[split]) == digest(splits[split])
    assert digest(changed["train"]) != digest(splits["train"])


def test_labels_and_kinds_are_balanced(splits):
    for split, examples in splits.items():
        counts = Counter((example.subcase, example.label) for example in examples)
        assert len(counts) == (20 if split in ("train", "val") else 5)
        assert set(counts.values()) == {len(examples) // len(counts)}
        assert all(example.pair is None for example in examples)


def test_no_sentence_occurs_twice(splits):
    texts = [{example.text for example in examples} for examples in splits.values()]
    assert [len(split) for split in texts] == [2000, 400, 200, 200]
    assert not any(one & other for one, other in combinations(texts, 2))


def test_every_word_is_known(splits):
    vocabulary = {word for example in splits["train"] for word in example.text.lower().rstrip(".").split()}
    for examples in splits.values():
        assert {word for example in examples for word in example.text.lower().rstrip(".").split()} <= vocabulary


def test_the_examples_are_the_same_each_time_and_on_every_machine(splits):
    assert digest(splits["train"]) == digest(QuestionFormation(**SIZES).splits()["train"])
    assert digest(splits["train"])[:16] == "5aff204b548672bb"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"val": 4}, "expected data.source.val >= 5 sentences, found 4"),
        ({"counterexamples": 2.0}, "0 <= data.source.counterexamples <= 1 .*found 2.0"),
    ],
)
def test_numbers_out_of_range_are_rejected(choices, message):
    with pytest.raises(ValueError, match=message):
        QuestionFormation(**choices)
