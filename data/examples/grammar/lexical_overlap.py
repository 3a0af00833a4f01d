"""Premises that contain all words of the hypothesis, in any order."""

from data.examples.grammar.frame import Frame, were
from data.examples.grammar.words import NEAR, TIMES, WHO, Words


def _swap(words: Words) -> Frame:
    (a, b), verb = words.nouns(2), words.verb()
    return Frame(f"{a} {verb} {b} in the {words.place()}", f"{a} {verb} {b}", f"{b} {verb} {a}")


def _preposition(words: Words) -> Frame:
    (a, b, c), verb = words.nouns(3), words.verb()
    return Frame(f"{a} {words.any_of(NEAR)} {b} {verb} {c}", f"{a} {verb} {c}", f"{b} {verb} {a}")


def _relative_clause(words: Words) -> Frame:
    (a, b, c), inner, outer = words.nouns(3), words.verb(), words.verb()
    return Frame(f"{a} {words.any_of(WHO)} {inner} {b} {outer} {c}", f"{a} {inner} {b}", f"{c} {outer} {a}")


def _passive(words: Words) -> Frame:
    (a, b), verb = words.nouns(2), words.verb()
    return Frame(f"{a} {were(a)} {verb} by {b} {words.any_of(TIMES)}", f"{b} {verb} {a}", f"{a} {verb} {b}")


def _conjunction(words: Words) -> Frame:
    (a, b, c), verb = words.nouns(3), words.verb()
    return Frame(f"{a} and {b} {verb} {c}", f"{a} {verb} {c}", f"{a} {verb} {b}")


def _relative_clause_inside(words: Words) -> Frame:
    (a, b, c), outer, inner = words.nouns(3), words.verb(), words.verb()
    return Frame(f"{a} {outer} {b} {words.any_of(WHO)} {inner} {c}", f"{b} {inner} {c}", f"{a} {inner} {c}")


def _around_preposition(words: Words) -> Frame:
    (a, b, c), verb = words.nouns(3), words.verb()
    return Frame(f"{a} {words.any_of(NEAR)} {b} {verb} {c}", f"{a} {verb} {c}", f"{c} {verb} {b}")


def _around_relative_clause(words: Words) -> Frame:
    (a, b, c), inner, outer = words.nouns(3), words.verb(), words.verb()
    return Frame(f"{a} {words.any_of(WHO)} {b} {inner} {outer} {c}", f"{a} {outer} {c}", f"{a} {inner} {b}")


def _conjunction_of_objects(words: Words) -> Frame:
    (a, b, c), verb = words.nouns(3), words.verb()
    return Frame(f"{a} {verb} {b} and {c}", f"{a} {verb} {c}", f"{b} {verb} {c}")


def _passive_of_phrase(words: Words) -> Frame:
    (a, b, c), verb = words.nouns(3), words.verb()
    return Frame(f"{a} {words.any_of(NEAR)} {b} {were(a)} {verb} by {c}", f"{c} {verb} {a}", f"{b} {verb} {c}")


ENTAILED = {
    "relative_clause_inside": _relative_clause_inside,
    "around_preposition": _around_preposition,
    "around_relative_clause": _around_relative_clause,
    "conjunction_of_objects": _conjunction_of_objects,
    "passive_of_phrase": _passive_of_phrase,
}
"""Kinds of premise that entail such a hypothesis."""
TRAPS = {
    "swap": _swap,
    "preposition": _preposition,
    "relative_clause": _relative_clause,
    "passive": _passive,
    "conjunction": _conjunction,
}
"""Kinds of premise that do not entail it."""
