"""Rules for values of the config: each describes what it allows, and checks it."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Rule:
    """The values that one key may have.

    Attributes:
        words: The alternatives, each as a text that may follow "expected".
        fits: Whether a plain value is allowed.
        is_filled_later: Whether the key may be `???`, because the program fills it in.
    """

    words: tuple[str, ...]
    fits: Callable[[Any], bool]
    is_filled_later: bool = False

    @property
    def expected(self) -> str:
        """The alternatives as one text."""
        *others, last = self.words
        joined = ", ".join(others)
        return f"{joined}{', or ' if any(',' in word for word in others) else ' or '}{last}" if others else last


def whole(minimum: int, maximum: int | None = None) -> Rule:
    """Return the rule for a whole number; true and 64.0 are not whole numbers.

    Examples:
        >>> whole(1).fits(3), whole(1).fits(3.0), whole(1).expected
        (True, False, 'a whole number, 1 or more')
    """
    if minimum == maximum:
        words = str(minimum)
    else:
        range_in_words = f", {minimum} or more" if maximum is None else f" from {minimum} to {maximum}"
        words = f"a whole number{range_in_words}"
    return Rule(
        (words,), lambda value: _is_whole(value) and minimum <= value <= (math.inf if maximum is None else maximum)
    )


def number(words: str, fits: Callable[[float], bool]) -> Rule:
    """Return the rule for a finite number in a range that `words` describes and `fits` decides."""

    def is_in(value: Any) -> bool:
        return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value) and fits(value)

    return Rule((f"a number {words}",), is_in)


def one_of(*choices: str) -> Rule:
    """Return the rule for one of a few words.

    Examples:
        >>> one_of("word", "token").expected
        'word or token'
    """
    return Rule(choices, lambda value: isinstance(value, str) and value in choices)


def text(words: str) -> Rule:
    """Return the rule for a text that is not empty; `words` describes it."""
    return Rule((words,), lambda value: isinstance(value, str) and bool(value.strip()))


def matching(pattern: str, words: str) -> Rule:
    """Return the rule for a text that matches a regular expression from end to end; `words` describes it."""
    return Rule((words,), lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


def items(rule: Rule, example: str, minimum: int = 0, maximum: int | None = None, distinct: bool = False) -> Rule:
    """Return the rule for a list whose items fit `rule`; with `distinct`, no item may occur twice."""

    def fits(value: Any) -> bool:
        return (
            isinstance(value, list)
            and minimum <= len(value)
            and (maximum is None or len(value) <= maximum)
            and all(map(rule.fits, value))
            and not (distinct and len(set(value)) < len(value))
        )

    return Rule((f"a list such as {example}, each {rule.expected}{', none twice' if distinct else ''}",), fits)


def names(rule: Rule, words: str) -> Rule:
    """Return the rule for a mapping whose values fit `rule`; `words` describes names and values."""
    return Rule(
        (words,),
        lambda value: isinstance(value, dict) and all(map(rule.fits, value.values())),
    )


def either(*rules: Rule) -> Rule:
    """Return the rule for values that fit one of several rules."""
    words = tuple(word for rule in rules for word in rule.words)
    return Rule(words, lambda value: any(rule.fits(value) for rule in rules))


def elsewhere(where: str) -> Rule:
    """Return the rule for a key that may have no value, because another key sets it."""
    return Rule((f"nothing here; type {where}",), lambda value: False)


def or_null(rule: Rule) -> Rule:
    """Return a rule that also allows null."""
    return either(rule, NULL)


def later(rule: Rule) -> Rule:
    """Return the same rule for a key that the program fills in."""
    return replace(rule, is_filled_later=True)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _may_be_folder(value: Any) -> bool:
    """Return whether a folder exists or can be made at this path: no file is in the way."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return False
    path = Path(value)
    return not any(place.exists() and not place.is_dir() for place in (path, *path.parents))


def is_folder_name(name: str) -> bool:
    """Return whether `name` can be a folder, a part of a reference, and a value on the command line.

    Examples:
        >>> is_folder_name("solu-w128"), is_folder_name("a/b")
        (True, False)
    """
    return name not in ("", ".", "..") and not re.search(r"[/\\@=,\s\x00-\x1f]", name) and len(name.encode()) <= 200


def shown(value: Any) -> str:
    """Return a value as it is typed.

    Examples:
        >>> shown([1, None, True])
        '[1,null,true]'
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(shown(item) or "''" for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{shown(item)}" for key, item in value.items()) + "}"
    return str(value)


NULL = Rule(("null",), lambda value: value is None)
FLAG = Rule(("true", "false"), lambda value: isinstance(value, bool))
ANYTHING = Rule(("anything",), lambda value: True)
FOLDER = Rule(("a folder that exists or can be made",), _may_be_folder)
SEED = whole(0, 2**32 - 1)
SIZE = whole(1, 10**9)
POSITIVE = number("above 0", lambda value: value > 0)
NOT_NEGATIVE = number("of 0 or more", lambda value: value >= 0)
SHARE = number("from 0 to 1", lambda value: 0 <= value <= 1)
PART_OF_ALL = number("above 0 and up to 1", lambda value: 0 < value <= 1)
INNER = number("above 0 and below 1", lambda value: 0 < value < 1)
PART = Rule(("a part with a _target_",), lambda value: isinstance(value, dict) and bool(value.get("_target_")))
PARTS = Rule(("parts by name",), lambda value: isinstance(value, dict))
