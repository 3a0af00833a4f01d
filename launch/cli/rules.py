"""What a value of the config may be: each rule says it in words and decides it."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What one key may hold.

    Attributes:
        words: what may stand after "expected", one text per alternative.
        fits: decides it for a plain value.
        is_filled_later: the key may be `???`, since the program knows its value.
    """

    words: tuple[str, ...]
    fits: Callable[[Any], bool]
    is_filled_later: bool = False

    @property
    def expected(self) -> str:
        """The words as one text."""
        *others, last = self.words
        joined = ", ".join(others)
        return f"{joined}{', or ' if any(',' in word for word in others) else ' or '}{last}" if others else last


def whole(least: int, most: int | None = None) -> Rule:
    """A whole number; true and 64.0 are none."""
    if least == most:
        words = str(least)
    else:
        words = f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"
    return Rule((words,), lambda value: _is_whole(value) and least <= value and (most is None or value <= most))


def number(words: str, fits: Callable[[float], bool]) -> Rule:
    """A finite number, of a range that `words` says and `fits` decides."""

    def is_in(value: Any) -> bool:
        return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value) and fits(value)

    return Rule((f"a number {words}",), is_in)


def one_of(*choices: str) -> Rule:
    """One of a few words."""
    return Rule(choices, lambda value: isinstance(value, str) and value in choices)


def text(what: str) -> Rule:
    """A text that is not empty; `what` says of what."""
    return Rule((what,), lambda value: isinstance(value, str) and bool(value.strip()))


def matching(pattern: str, what: str) -> Rule:
    """A text of which all matches a regular expression."""
    return Rule((what,), lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


def items(rule: Rule, example: str, least: int = 0, most: int | None = None, distinct: bool = False) -> Rule:
    """A list whose items fit `rule`; `distinct`: none of them twice."""

    def fits(value: Any) -> bool:
        return (
            isinstance(value, list)
            and least <= len(value)
            and (most is None or len(value) <= most)
            and all(map(rule.fits, value))
            and not (distinct and len(set(value)) < len(value))
        )

    return Rule((f"a list such as {example}, each {rule.expected}{', none twice' if distinct else ''}",), fits)


def names(rule: Rule, words: str) -> Rule:
    """Names with values that fit `rule`; `words` says what both are."""
    return Rule(
        (words,),
        lambda value: isinstance(value, dict) and all(map(rule.fits, value.values())),
    )


def either(*rules: Rule) -> Rule:
    """What fits one of the rules."""
    words = tuple(word for rule in rules for word in rule.words)
    return Rule(words, lambda value: any(rule.fits(value) for rule in rules))


def elsewhere(where: str) -> Rule:
    """Nothing, since another key says it."""
    return Rule((f"nothing here; type {where}",), lambda value: False)


def or_null(rule: Rule) -> Rule:
    """The same, or nothing."""
    return either(rule, NULL)


def later(rule: Rule) -> Rule:
    """The same, where the program fills the value in."""
    return replace(rule, is_filled_later=True)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _may_be_folder(value: Any) -> bool:
    """Whether a folder is there or can be made there: no file stands in its way."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return False
    path = Path(value)
    return not any(place.is_file() for place in (path, *path.parents))


def is_folder_name(name: str) -> bool:
    """Whether `name` can be a folder of its own, a part of references, and a value on the command line."""
    return name not in ("", ".", "..") and not re.search(r"[/\\@=,\s\x00-\x1f]", name) and len(name.encode()) <= 200


def shown(value: Any) -> str:
    """A value as it is typed."""
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
FOLDER = Rule(("a folder, there or to be made",), _may_be_folder)
SEED = whole(0, 2**32 - 1)
SIZE = whole(1, 10**9)
POSITIVE = number("above 0", lambda value: value > 0)
NOT_NEGATIVE = number("of 0 or more", lambda value: value >= 0)
SHARE = number("from 0 to 1", lambda value: 0 <= value <= 1)
PART_OF_ALL = number("above 0 and up to 1", lambda value: 0 < value <= 1)
INNER = number("above 0 and below 1", lambda value: 0 < value < 1)
PART = Rule(("a part with a _target_",), lambda value: isinstance(value, dict) and bool(value.get("_target_")))
PARTS = Rule(("parts by name",), lambda value: isinstance(value, dict))
