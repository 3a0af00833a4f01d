"""Premises that contain the hypothesis as consecutive words."""

from data.examples.grammar.frame import Frame
from data.examples.grammar.words import BELIEF, EITHER, NEAR, SINCE, TIMES, WHO, Words


def _sentence_as_object(words: Words) -> Frame:
    (a, b, c, d), belief, inner, outer = words.nouns(4), words.one_of(BELIEF), words.action(), words.verb()
    premise = f"{a} {belief} {b} {words.any_of(WHO)} {inner} {c} {outer} {d}"
    return Frame(premise, f"{b} {inner} {c}", f"{a} {belief} {b}")


def _preposition_on_subject(words: Words) -> Frame:
    (a, b, c), verb = words.nouns(3), words.verb()
    return Frame(f"{a} {words.any_of(NEAR)} {b} {verb} {c}", f"{a} {verb} {c}", f"{b} {verb} {c}")


def _relative_clause_on_subject(words: Words) -> Frame:
    (a, b, c), inner, outer = words.nouns(3), words.verb(), words.verb()
    return Frame(f"{a} {words.any_of(WHO)} {inner} {b} {outer} {c}", f"{a} {outer} {c}", f"{b} {outer} {c}")


def _participle(words: Words) -> Frame:
    (a, b), inner, outer = words.nouns(2), words.one_of(EITHER), words.action()
    continuation = f"{b} {inner} in the {words.place()}"
    return Frame(f"{a} {outer} {continuation}", f"{a} {outer} {b}", continuation)


def _object_or_subject(words: Words) -> Frame:
    (a, b, c), inner, outer = words.nouns(3), words.one_of(EITHER), words.verb()
    return Frame(f"{words.any_of(SINCE)} {a} {inner} {b} {outer} {c}", f"{b} {outer} {c}", f"{a} {inner} {b}")


def _conjunction_of_subjects(words: Words) -> Frame:
    (a, b, c), verb = words.nouns(3), words.verb()
    return Frame(f"{a} and {b} {verb} {c}", f"{b} {verb} {c}", f"{b} {verb} {a}")


def _preposition_on_object(words: Words) -> Frame:
    (a, b, c), verb = words.nouns(3), words.verb()
    return Frame(f"{a} {verb} {b} {words.any_of(NEAR)} {c}", f"{a} {verb} {b}", f"{a} {verb} {c}")


def _relative_clause_on_object(words: Words) -> Frame:
    (a, b, c), outer, inner = words.nouns(3), words.verb(), words.verb()
    return Frame(f"{a} {outer} {b} {words.any_of(WHO)} {inner} {c}", f"{a} {outer} {b}", f"{a} {outer} {c}")


def _time(words: Words) -> Frame:
    (a, b), verb = words.nouns(2), words.verb()
    return Frame(f"{a} {verb} {b} {words.any_of(TIMES)}", f"{a} {verb} {b}", f"{b} {verb} {a}")


def _conjunction_of_verbs(words: Words) -> Frame:
    (a, b, c), first, second = words.nouns(3), words.verb(), words.verb()
    return Frame(f"{a} {first} {b} and {second} {c}", f"{a} {first} {b}", f"{b} {second} {c}")


ENTAILED = {
    "conjunction_of_subjects": _conjunction_of_subjects,
    "preposition_on_object": _preposition_on_object,
    "relative_clause_on_object": _relative_clause_on_object,
    "time": _time,
    "conjunction_of_verbs": _conjunction_of_verbs,
}
"""Kinds of premise that entail such a hypothesis."""
TRAPS = {
    "sentence_as_object": _sentence_as_object,
    "preposition_on_subject": _preposition_on_subject,
    "relative_clause_on_subject": _relative_clause_on_subject,
    "participle": _participle,
    "object_or_subject": _object_or_subject,
}
"""Kinds of premise that do not entail it."""
