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

from data.examples.grammar import constituent, lexical_overlap, subsequence
from data.examples.grammar.frame import Frame
from data.examples.grammar.words import Words

HEURISTICS = ("lexical_overlap", "subsequence", "constituent")
ENTAILMENT, NON_ENTAILMENT = "entailment", "non-entailment"


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


SUBCASES = tuple(
    Subcase(heuristic, label, name, frame)
    for heuristic, of in zip(HEURISTICS, (lexical_overlap, subsequence, constituent), strict=True)
    for label, kinds in ((NON_ENTAILMENT, of.TRAPS), (ENTAILMENT, of.ENTAILED))
    for name, frame in kinds.items()
)
