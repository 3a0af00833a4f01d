"""Premises that contain the hypothesis as a whole clause."""

from data.examples.grammar.frame import Clause, Frame, clause_of
from data.examples.grammar.words import CERTAINLY, CLAIMED, IF, KNEW, PERHAPS, SINCE, WHO, Words


def _with_relative_clause(words: Words) -> tuple[Clause, str]:
    """Return a clause whose subject has a relative clause, and that relative clause as a sentence.

    The sentence is entailed in any context, because "the" presupposes it.
    """
    clause, verb, noun = clause_of(words), words.verb(), words.noun()
    aside = f"{verb} the {noun}"
    return Clause(f"{clause.subject} {words.any_of(WHO)} {aside}", clause.predicate), f"{clause.subject} {aside}"


def _under_if(words: Words) -> Frame:
    condition, (main, aside) = clause_of(words), _with_relative_clause(words)
    return Frame(f"{words.any_of(IF)} {condition}, {main}", aside, str(condition))


def _after_if(words: Words) -> Frame:
    (condition, aside), main = _with_relative_clause(words), clause_of(words)
    return Frame(f"{words.any_of(IF)} {condition}, {main}", aside, str(main))


def _under_claim(words: Words) -> Frame:
    claim, (a, b), aside = words.one_of(CLAIMED), words.nouns(2), words.verb()
    clause = clause_of(words)
    return Frame(f"{a} {words.any_of(WHO)} {aside} {b} {claim} that {clause}", f"{a} {aside} {b}", str(clause))


def _disjunction(words: Words) -> Frame:
    (disjunct, aside), other = _with_relative_clause(words), clause_of(words)
    pair = (disjunct, other) if words.chance.random() < 0.5 else (other, disjunct)
    return Frame(f"{pair[0]}, or {pair[1]}", aside, str(other))


def _perhaps(words: Words) -> Frame:
    sure, unsure = clause_of(words), clause_of(words)
    return Frame(f"{sure}, and {words.any_of(PERHAPS)} {unsure}", str(sure), str(unsure))


def _under_since(words: Words) -> Frame:
    reason, main = clause_of(words), clause_of(words)
    return Frame(f"{words.any_of(SINCE)} {reason}, {main}", str(reason), f"{main.subject} {reason.predicate}")


def _after_since(words: Words) -> Frame:
    reason, main = clause_of(words), clause_of(words)
    return Frame(f"{words.any_of(SINCE)} {reason}, {main}", str(main), f"{reason.subject} {main.predicate}")


def _under_knowledge(words: Words) -> Frame:
    (a, b), aside = words.nouns(2), words.verb()
    clause = clause_of(words)
    premise = f"{a} {words.any_of(WHO)} {aside} {b} {words.one_of(KNEW)} that {clause}"
    return Frame(premise, str(clause), f"{a} {clause.predicate}")


def _conjunction_of_clauses(words: Words) -> Frame:
    pair = (clause_of(words), clause_of(words))
    first, second = pair if words.chance.random() < 0.5 else pair[::-1]
    return Frame(f"{pair[0]}, and {pair[1]}", str(first), f"{second.subject} {first.predicate}")


def _certainly(words: Words) -> Frame:
    sure, surer = clause_of(words), clause_of(words)
    return Frame(f"{sure}, and {words.any_of(CERTAINLY)} {surer}", str(surer), f"{sure.subject} {surer.predicate}")


ENTAILED = {
    "under_since": _under_since,
    "after_since": _after_since,
    "under_knowledge": _under_knowledge,
    "conjunction_of_clauses": _conjunction_of_clauses,
    "certainly": _certainly,
}
"""Kinds of premise that entail such a hypothesis."""
TRAPS = {
    "under_if": _under_if,
    "after_if": _after_if,
    "under_claim": _under_claim,
    "disjunction": _disjunction,
    "perhaps": _perhaps,
}
"""Kinds of premise that do not entail it."""
