"""A grammar of premises and of what follows from them, after the idea of HANS (McCoy, Pavlick and Linzen 2019).

Three heuristics by which a reader may be fooled into calling a hypothesis entailed, each a special case of the one
before: all its words are in the premise (lexical overlap); it is a run of consecutive words of the premise
(subsequence); it is a whole clause of the premise (constituent). For each there are five kinds of premise from which
such a hypothesis follows and five from which it does not. Words, kinds and code are our own.

Every premise, of whatever kind, is drawn together with a hypothesis that follows (`entailed`), one that does not though
all its words are there (`trap`), and one that does not and has no noun or verb that is there (`foreign`). So neither
the premise alone nor the hypothesis alone says anything about the label. Every hypothesis is "the N V the N" or "the N
V in the PLACE".
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from data.examples.words import BELIEF, CERTAINLY, CLAIMED, EITHER, IF, KNEW, NEAR, PERHAPS, SINCE, TIMES, WHO, Words

HEURISTICS = ("lexical_overlap", "subsequence", "constituent")
ENTAILMENT, NON_ENTAILMENT = "entailment", "non-entailment"


@dataclass(frozen=True)
class Frame:
    """A premise and hypotheses, in lower case and without a full stop.

    Attributes:
        premise: the premise.
        entailed: follows from it, and has no word that it has not.
        trap: does not follow from it, and has no word that it has not.
    """

    premise: str
    entailed: str
    trap: str


@dataclass(frozen=True)
class Subcase:
    """A kind of premise.

    Attributes:
        heuristic: one of HEURISTICS: how its target looks like the premise.
        label: ENTAILMENT where the target is the frame's `entailed`, NON_ENTAILMENT where it is its `trap`.
        name: short name, with the same construction named alike under both labels.
        frame: draws one.
    """

    heuristic: str
    label: str
    name: str
    frame: Callable[[Words], Frame]


@dataclass(frozen=True)
class Clause:
    """A simple sentence in two parts."""

    subject: str
    predicate: str

    def __str__(self) -> str:
        return f"{self.subject} {self.predicate}"


@dataclass(frozen=True)
class Drawn:
    """What one draw from a subcase gives, as sentences.

    Attributes:
        premise: the premise.
        entailed: follows; all its words are in the premise.
        trap: does not follow; all its words are in the premise.
        foreign: does not follow; no content word of it is in the premise. Of the form of `entailed`.
    """

    premise: str
    entailed: str
    trap: str
    foreign: str


def draw(subcase: Subcase, chance: Random) -> Drawn:
    """Draw a premise of this kind and its three hypotheses."""
    words = Words(chance)
    frame = subcase.frame(words)
    texts = (frame.premise, frame.entailed, frame.trap, _foreign(frame.entailed, words))
    return Drawn(*(text[0].upper() + text[1:] + "." for text in texts))


def _foreign(hypothesis: str, words: Words) -> str:
    """Replace the three content words of "the N V the N" or "the N V in the PLACE"."""
    if hypothesis.split()[3] == "in":
        return f"the {words.noun()} {words.intransitive()} in the {words.place()}"
    return f"the {words.noun()} {words.verb()} the {words.noun()}"


def _clause(words: Words) -> Clause:
    subject = f"the {words.noun()}"
    if words.chance.random() < 0.4:
        return Clause(subject, f"{words.intransitive()} in the {words.place()}")
    return Clause(subject, f"{words.verb()} the {words.noun()}")


def _were(noun_phrase: str) -> str:
    return "were" if noun_phrase.endswith("s") else "was"


# Lexical overlap ----------------------------------------------------------------------------------------------------


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
    return Frame(f"{a} {_were(a)} {verb} by {b} {words.any_of(TIMES)}", f"{b} {verb} {a}", f"{a} {verb} {b}")


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
    return Frame(f"{a} {words.any_of(NEAR)} {b} {_were(a)} {verb} by {c}", f"{c} {verb} {a}", f"{b} {verb} {c}")


# Subsequence --------------------------------------------------------------------------------------------------------


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
    done = f"{b} {inner} in the {words.place()}"
    return Frame(f"{a} {outer} {done}", f"{a} {outer} {b}", done)


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


# Constituent --------------------------------------------------------------------------------------------------------


def _with_relative_clause(words: Words) -> tuple[Clause, str]:
    """Return a clause whose subject has a relative clause, and what that says of the subject: it follows whatever
    stands around the clause, for "the" takes it for granted."""
    clause, verb, noun = _clause(words), words.verb(), words.noun()
    aside = f"{verb} the {noun}"
    return Clause(f"{clause.subject} {words.any_of(WHO)} {aside}", clause.predicate), f"{clause.subject} {aside}"


def _under_if(words: Words) -> Frame:
    condition, (main, aside) = _clause(words), _with_relative_clause(words)
    return Frame(f"{words.any_of(IF)} {condition}, {main}", aside, str(condition))


def _after_if(words: Words) -> Frame:
    (condition, aside), main = _with_relative_clause(words), _clause(words)
    return Frame(f"{words.any_of(IF)} {condition}, {main}", aside, str(main))


def _under_claim(words: Words) -> Frame:
    claim, (a, b), aside = words.one_of(CLAIMED), words.nouns(2), words.verb()
    clause = _clause(words)
    return Frame(f"{a} {words.any_of(WHO)} {aside} {b} {claim} that {clause}", f"{a} {aside} {b}", str(clause))


def _disjunction(words: Words) -> Frame:
    (one, aside), other = _with_relative_clause(words), _clause(words)
    pair = (one, other) if words.chance.random() < 0.5 else (other, one)
    return Frame(f"{pair[0]}, or {pair[1]}", aside, str(other))


def _perhaps(words: Words) -> Frame:
    sure, unsure = _clause(words), _clause(words)
    return Frame(f"{sure}, and {words.any_of(PERHAPS)} {unsure}", str(sure), str(unsure))


def _under_since(words: Words) -> Frame:
    reason, main = _clause(words), _clause(words)
    return Frame(f"{words.any_of(SINCE)} {reason}, {main}", str(reason), f"{main.subject} {reason.predicate}")


def _after_since(words: Words) -> Frame:
    reason, main = _clause(words), _clause(words)
    return Frame(f"{words.any_of(SINCE)} {reason}, {main}", str(main), f"{reason.subject} {main.predicate}")


def _under_knowledge(words: Words) -> Frame:
    (a, b), aside = words.nouns(2), words.verb()
    clause = _clause(words)
    premise = f"{a} {words.any_of(WHO)} {aside} {b} {words.one_of(KNEW)} that {clause}"
    return Frame(premise, str(clause), f"{a} {clause.predicate}")


def _conjunction_of_clauses(words: Words) -> Frame:
    pair = (_clause(words), _clause(words))
    one, other = pair if words.chance.random() < 0.5 else pair[::-1]
    return Frame(f"{pair[0]}, and {pair[1]}", str(one), f"{other.subject} {one.predicate}")


def _certainly(words: Words) -> Frame:
    sure, surer = _clause(words), _clause(words)
    return Frame(f"{sure}, and {words.any_of(CERTAINLY)} {surer}", str(surer), f"{sure.subject} {surer.predicate}")


_KINDS: dict[tuple[str, str], dict[str, Callable[[Words], Frame]]] = {
    ("lexical_overlap", NON_ENTAILMENT): {
        "swap": _swap,
        "preposition": _preposition,
        "relative_clause": _relative_clause,
        "passive": _passive,
        "conjunction": _conjunction,
    },
    ("lexical_overlap", ENTAILMENT): {
        "relative_clause_inside": _relative_clause_inside,
        "around_preposition": _around_preposition,
        "around_relative_clause": _around_relative_clause,
        "conjunction_of_objects": _conjunction_of_objects,
        "passive_of_phrase": _passive_of_phrase,
    },
    ("subsequence", NON_ENTAILMENT): {
        "sentence_as_object": _sentence_as_object,
        "preposition_on_subject": _preposition_on_subject,
        "relative_clause_on_subject": _relative_clause_on_subject,
        "participle": _participle,
        "object_or_subject": _object_or_subject,
    },
    ("subsequence", ENTAILMENT): {
        "conjunction_of_subjects": _conjunction_of_subjects,
        "preposition_on_object": _preposition_on_object,
        "relative_clause_on_object": _relative_clause_on_object,
        "time": _time,
        "conjunction_of_verbs": _conjunction_of_verbs,
    },
    ("constituent", NON_ENTAILMENT): {
        "under_if": _under_if,
        "after_if": _after_if,
        "under_claim": _under_claim,
        "disjunction": _disjunction,
        "perhaps": _perhaps,
    },
    ("constituent", ENTAILMENT): {
        "under_since": _under_since,
        "after_since": _after_since,
        "under_knowledge": _under_knowledge,
        "conjunction_of_clauses": _conjunction_of_clauses,
        "certainly": _certainly,
    },
}
SUBCASES = tuple(
    Subcase(heuristic, label, name, frame)
    for (heuristic, label), kinds in _KINDS.items()
    for name, frame in kinds.items()
)
