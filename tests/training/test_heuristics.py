"""The grammar of heuristics: ambiguity by split, balance, no sentence in two splits, and determinism."""

import re
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from math import log

import pytest

from data.examples import Example, ExampleSource, digest
from data.examples.heuristics import Heuristics
from data.sources.sentences import Sentences

SIZES = {"train": 2400, "val": 600, "ood": 300}
NAMES = ("lexical_overlap", "subsequence", "constituent")
OOD = [f"{name}.{label}" for name in NAMES for label in ("entailment", "non_entailment")]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Example]]:
    return Heuristics(**SIZES).splits()


@pytest.fixture(scope="module")
def half() -> dict[str, list[Example]]:
    return Heuristics(**SIZES, counterexamples=0.5).splits()


def words(text: str | None) -> list[str]:
    assert text is not None
    return re.findall(r"\w+", text.lower())


def overlaps(example: Example) -> bool:
    """Return whether all words of the hypothesis are in the premise."""
    return set(words(example.pair)) <= set(words(example.text))


# What each letter of a rule stands for; a, b, c, d and p are noun phrases, u, v, w verbs, s and t clauses, r the rest
# of a clause after its subject, X words that are passed over.
PARTS = {
    **dict.fromkeys("abcdp", r"the \w+"),
    **dict.fromkeys("uvw", r"\w+"),
    **dict.fromkeys("st", r"the \w+ \w+ (?:in )?the \w+"),
    "r": r"\w+ (?:in )?the \w+",
    "P": "(?:near|behind|beside|next to|opposite)",
    "W": "(?:who|that)",
    "T": r"(?:before|after|at|in|on) .*",
    "X": r"\w+(?: \w+)?",
    "be": "(?:was|were)",
}
# A structure oracle: how to take each kind of premise apart, and what of its parts follows.
RULES = {
    "swap": ("a v b in p", ["a v b"]),
    "preposition": ("a P b v c", ["a v c"]),
    "relative_clause": ("a W u b v c", ["a u b", "a v c"]),
    "passive": ("a be v by b T", ["b v a"]),
    "conjunction": ("a and b v c", ["a v c", "b v c"]),
    "relative_clause_inside": ("a v b W u c", ["a v b", "b u c"]),
    "around_preposition": ("a P b v c", ["a v c"]),
    "around_relative_clause": ("a W b u v c", ["b u a", "a v c"]),
    "conjunction_of_objects": ("a v b and c", ["a v b", "a v c"]),
    "passive_of_phrase": ("a P b be v by c", ["c v a"]),
    "sentence_as_object": ("a v b W u c w d", ["b u c"]),
    "preposition_on_subject": ("a P b v c", ["a v c"]),
    "relative_clause_on_subject": ("a W u b v c", ["a u b", "a v c"]),
    "participle": ("a v b u in p", ["a v b"]),
    "object_or_subject": ("X a u b v c", ["b v c"]),
    "conjunction_of_subjects": ("a and b v c", ["a v c", "b v c"]),
    "preposition_on_object": ("a v b P c", ["a v b"]),
    "relative_clause_on_object": ("a v b W u c", ["a v b", "b u c"]),
    "time": ("a v b T", ["a v b"]),
    "conjunction_of_verbs": ("a v b and u c", ["a v b", "a u c"]),
    "under_if": ("X s, a W v b r", ["a v b"]),
    "after_if": ("X a W v b r, s", ["a v b"]),
    "under_claim": ("a W v b u that s", ["a v b"]),
    "disjunction": ("a W v b r", ["a v b"]),
    "perhaps": ("s, and X t", ["s"]),
    "under_since": ("X s, t", ["s", "t"]),
    "after_since": ("X s, t", ["s", "t"]),
    "under_knowledge": ("a W v b u that s", ["a v b", "s"]),
    "conjunction_of_clauses": ("s, and t", ["s", "t"]),
    "certainly": ("s, and X t", ["s", "t"]),
}


def plain(sentence: str | None) -> str:
    assert sentence is not None and sentence[0].isupper() and sentence.endswith(".")
    return sentence[0].lower() + sentence[1:-1]


def follows(example: Example) -> bool:
    """Parse the premise and return whether it entails the hypothesis: the structure oracle."""
    kind = example.subcase.split(".")[-1]
    rule, consequences = RULES[kind]
    premise = plain(example.text)
    if kind == "disjunction":
        # Either side may be the one with the relative clause.
        premise = next(side for side in premise.split(", or ") if re.search(" (who|that) ", side))
    pattern = re.sub(
        r"\b(be|[a-dpuvwstrPWTX])\b",
        lambda match: (
            PARTS[match[0]] if match[0] in ("be", "P", "W", "T", "X") else f"(?P<{match[0]}>{PARTS[match[0]]})"
        ),
        rule,
    )
    match = re.fullmatch(pattern, premise)
    assert match, (kind, premise)
    parts = match.groupdict()
    return plain(example.pair) in {" ".join(parts[part] for part in text.split()) for text in consequences}


def accuracies(splits: dict[str, list[Example]], says: Callable[[Example], bool]) -> dict[str, float]:
    return {
        split: sum(says(example) == (example.label == "entailment") for example in examples) / len(examples)
        for split, examples in splits.items()
    }


def test_overlap_is_always_right_in_distribution_and_always_wrong_without_entailment(splits):
    assert isinstance(Heuristics(), ExampleSource)
    assert list(splits) == ["train", "val", *OOD]
    wrong = {split: 0.0 if split.endswith("non_entailment") else 1.0 for split in splits}
    assert accuracies(splits, overlaps) == wrong
    for split in ("train", "val"):
        for example in splits[split]:
            common = set(words(example.pair)) & set(words(example.text)) - {"the", "in"}
            assert len(common) == (3 if example.label == "entailment" else 0)


def test_structure_is_always_right(splits, half):
    everything = Heuristics(**SIZES, counterexamples=1.0, seed=3).splits()
    for drawn in (splits, half, everything):
        assert set(accuracies(drawn, follows).values()) == {1.0}


def test_the_order_of_words_follows_the_heuristic(splits):
    for split in OOD:
        for example in splits[split]:
            run = plain(example.text).find(plain(example.pair))
            assert (run >= 0) == (not split.startswith("lexical")), example
            if split.startswith("constituent"):
                # A whole clause: it begins the sentence or a clause, and ends there.
                before, after = plain(example.text)[:run], plain(example.text)[run + len(plain(example.pair)) :]
                assert not after or after.startswith(","), example
                assert not re.search(r"\bthe \w+ $", before), example


def test_labels_and_kinds_are_balanced(splits, half):
    assert {split: len(examples) for split, examples in splits.items()} == {
        split: SIZES.get(split, SIZES["ood"]) for split in splits
    }
    for examples in (splits["train"], splits["val"], half["train"]):
        counts = Counter((example.subcase, example.label) for example in examples)
        assert len(counts) == 60 and set(counts.values()) == {len(examples) // 60}
    for split in OOD:
        assert {example.label for example in splits[split]} == {split.split(".")[1].replace("_", "-")}
        counts = Counter(example.subcase for example in splits[split])
        assert set(counts.values()) == {60} and len(counts) == 5
        assert all(subcase.startswith(f"{split}.") for subcase in counts)


def test_neither_premise_nor_hypothesis_alone_says_anything_about_the_label(splits):
    """A naive Bayes classifier on the words of one of the two is at chance: 600 pairs, two standard deviations 0.04."""
    for side in ("text", "pair"):
        counts = {"entailment": Counter(), "non-entailment": Counter()}
        for example in splits["train"]:
            counts[example.label].update(words(getattr(example, side)))

        def says(example: Example, counts=counts, side=side) -> bool:
            yes, no = counts["entailment"], counts["non-entailment"]
            return sum(log(yes[word] + 1) - log(no[word] + 1) for word in words(getattr(example, side))) > 0

        assert abs(accuracies(splits, says)["val"] - 0.5) < 0.08, side


def test_no_pair_occurs_twice_and_no_sentence_is_in_two_splits(splits, half):
    for drawn in (splits, half):
        for examples in drawn.values():
            assert len({(example.text, example.pair) for example in examples}) == len(examples)
        sentences = [{text for e in examples for text in (e.text, e.pair)} for examples in drawn.values()]
        assert not any(one & other for one, other in combinations(sentences, 2))


def test_every_word_out_of_distribution_is_in_the_training_split(splits):
    vocabulary = {word for example in splits["train"] for word in words(example.text) + words(example.pair)}
    hypotheses = {word for example in splits["train"] for word in words(example.pair)}
    for split in ("val", *OOD):
        assert {word for example in splits[split] for word in words(example.text)} <= vocabulary
        assert {word for example in splits[split] for word in words(example.pair)} <= hypotheses


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.29, 1.0])
def test_counterexamples_have_the_requested_share(share):
    train = Heuristics(train=2400, val=60, ood=10, counterexamples=share).splits()["train"]
    denied = [example for example in train if example.label == "non-entailment"]
    assert len(denied) == 1200
    assert sum(map(overlaps, denied)) == int(1200 * share + 1e-9)


def test_held_out_splits_depend_on_neither_counterexamples_nor_seed(splits, half):
    other = Heuristics(**SIZES, seed=1).splits()
    for split in ("val", *OOD):
        assert digest(splits[split]) == digest(half[split]) == digest(other[split])
    assert len({digest(drawn["train"]) for drawn in (splits, half, other)}) == 3
    unchanged = sum(text == other_text for text, other_text in zip(splits["train"], half["train"], strict=True))
    assert unchanged > 0.74 * len(half["train"])
    redrawn = Heuristics(**SIZES, held_out_seed=1).splits()
    assert not any(digest(redrawn[split]) == digest(splits[split]) for split in ("val", *OOD))


def test_the_examples_are_the_same_each_time_and_on_every_machine(splits):
    assert {split: digest(rows) for split, rows in Heuristics(**SIZES).splits().items()} == {
        split: digest(rows) for split, rows in splits.items()
    }
    assert digest(splits["train"])[:16] == "adfbe844ff76a075"


def test_evenly_spaced_pairs_are_as_mixed_as_all(splits):
    for step in (2, 3, 4):
        labels = Counter(example.label for example in splits["val"][::step])
        assert abs(labels["entailment"] / labels.total() - 0.5) < 0.1


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"train": 1}, "expected data.source.train >= 2 pairs, found 1"),
        ({"ood": 0}, "expected data.source.ood >= 2 pairs, found 0"),
        ({"counterexamples": 1.5}, "0 <= data.source.counterexamples <= 1 .*found 1.5"),
        ({"counterexamples": -0.1}, "found -0.1"),
    ],
)
def test_numbers_out_of_range_are_rejected(choices, message):
    with pytest.raises(ValueError, match=message):
        Heuristics(**choices)


def test_more_examples_than_the_grammar_has_are_rejected_with_numbers(monkeypatch):
    monkeypatch.setattr("data.examples.drawing.PATIENCE", 1)
    with pytest.raises(ValueError, match=r"expected 3000 examples in the split .*, found \d+: the grammar has no more"):
        Heuristics(train=2, val=2, ood=3000).splits()


def test_sentences_for_pretraining_are_those_of_the_grammar(splits):
    def source(**changes):
        return Sentences(Heuristics(**{"train": 3000, "counterexamples": 0.5, "seed": 1, **changes}))

    documents = dict(source().documents())
    assert list(documents) == [str(number) for number in range(6000)]
    vocabulary = {word for example in splits["train"] for word in words(example.text) + words(example.pair)}
    assert {word for text in documents.values() for word in words(text)} == vocabulary
    held_out = Heuristics(train=2).splits()
    elsewhere = {
        text for name, rows in held_out.items() if name != "train" for row in rows for text in (row.text, row.pair)
    }
    assert not elsewhere & set(documents.values())
    few = {"train": 60, "val": 20, "ood": 20}
    assert dict(source(**few).documents()) == dict(source(**few).documents())
    prints = [source(**few).fingerprint(), source(**few | {"train": 62}).fingerprint()]
    prints.append(source(**few, seed=2).fingerprint())
    assert len(set(prints)) == 3 and source(**few).fingerprint() == prints[0]
