"""A grammar of premises and hypotheses, after the idea of HANS (McCoy, Pavlick and Linzen 2019).

Three heuristics can mislead a reader to call a hypothesis entailed, each a special case of the one before: all its
words are in the premise (lexical overlap); it is a run of consecutive words of the premise (subsequence); it is a whole
clause of the premise (constituent). Each heuristic has five kinds of premise that entail such a hypothesis and five
that do not. Words, kinds and code are our own.

Every premise is drawn together with a hypothesis that it entails (`entailed`), one that it does not entail although it
has all its words (`trap`), and one that it does not entail and with which it shares no noun or verb (`foreign`).
Therefore neither the premise alone nor the hypothesis alone is informative about the label. Every hypothesis has the
form "the N V the N" or "the N V in the PLACE".
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
        heuristic: One of HEURISTICS: how the hypothesis resembles the premise.
        label: ENTAILMENT if the hypothesis is the frame's `entailed`, NON_ENTAILMENT if it is its `trap`.
        name: Short name; a construction has the same name under both labels.
        frame: Draws a frame.
    """

    heuristic: str
    label: str
    name: str
    frame: Callable[[Words], Frame]


@dataclass(frozen=True)
class Drawn:
    """A premise and its hypotheses, as sentences.

    Attributes:
        premise: The premise.
        entailed: An entailed hypothesis; all its words are in the premise.
        trap: A hypothesis that is not entailed; all its words are in the premise.
        foreign: A hypothesis that is not entailed; none of its content words is in the premise. It has the form of
            `entailed`.
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
    for heuristic, kinds_of in zip(HEURISTICS, (lexical_overlap, subsequence, constituent), strict=True)
    for label, kinds in ((NON_ENTAILMENT, kinds_of.TRAPS), (ENTAILMENT, kinds_of.ENTAILED))
    for name, frame in kinds.items()
)
