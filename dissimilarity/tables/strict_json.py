"""JSON that every parser accepts, without the NaN and infinities that Python's json writes."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def with_nulls(content: Any) -> Any:
    """Return nested plain values with null for each number that is not finite."""
    return _mapped(content, lambda value: None if isinstance(value, float) and not math.isfinite(value) else value)


def dumps(content: Any, **options: Any) -> str:
    """Return JSON of nested plain values, with "NaN", "Infinity" and "-Infinity" for numbers that are not finite."""
    try:
        return json.dumps(content, allow_nan=False, ensure_ascii=False, **options)
    except ValueError:
        named = _mapped(content, lambda value: _name(value) if isinstance(value, float) else value)
        return json.dumps(named, allow_nan=False, ensure_ascii=False, **options)


def loads(text: str | bytes) -> Any:
    """Return exactly the values that `dumps` wrote."""
    content = json.loads(text)
    marked = (b'NaN"', b'Infinity"') if isinstance(text, bytes) else ('NaN"', 'Infinity"')
    if any(mark in text for mark in marked):  # pyright: ignore[reportOperatorIssue]
        return _mapped(content, lambda value: NAMES.get(value, value) if isinstance(value, str) else value)
    return content


def _name(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _mapped(content: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(content, Mapping):
        return {key: _mapped(value, change) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_mapped(value, change) for value in content]
    return change(content)
