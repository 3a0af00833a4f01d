"""Frames, which are premises with their hypotheses, and the clauses that they consist of."""

from dataclasses import dataclass

from data.examples.grammar.words import Words


@dataclass(frozen=True)
class Frame:
    """A premise and hypotheses, in lower case and without a full stop.

    Attributes:
        premise: The premise.
        entailed: A hypothesis that it entails; all its words are in the premise.
        trap: A hypothesis that it does not entail; all its words are in the premise.
    """

    premise: str
    entailed: str
    trap: str


@dataclass(frozen=True)
class Clause:
    """A simple sentence in two parts."""

    subject: str
    predicate: str

    def __str__(self) -> str:
        return f"{self.subject} {self.predicate}"


def clause_of(words: Words) -> Clause:
    """Draw a clause: "the N V the N", or "the N V in the PLACE"."""
    subject = f"the {words.noun()}"
    if words.chance.random() < 0.4:
        return Clause(subject, f"{words.intransitive()} in the {words.place()}")
    return Clause(subject, f"{words.verb()} the {words.noun()}")


def were(noun_phrase: str) -> str:
    """Return "was" or "were", whichever agrees with a noun phrase.

    Examples:
        >>> were("the nurses")
        'were'
    """
    return "were" if noun_phrase.endswith("s") else "was"
