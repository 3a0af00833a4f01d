"""Reads plain values, within limits, from files that anyone may have written."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_BYTES = {".json": 2**24, ".yaml": 2**20, ".md": 2**24}
"""The largest files of settings and records that are parsed; real ones hold kilobytes."""
MAX_DEPTH = 32
MAX_VALUES = 200_000
MAX_TOKEN_ID = 2**22
"""Above every real vocabulary; what has a row for each id would fill the memory."""
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that begin a command to the terminal on which the text is shown; tabs and line ends do not."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SCALARS = (type(None), bool, int, float, str)
TRIAL = (
    'The quick brown fox, 12345 times; "naïve" façade — 日本語 🙂\n\n\tdef f(x):\n        return x\n' + 60 * "a" + "!"
)
"""Text of every kind, so that a broken tokenizer that panics over any text panics over this one."""


def check_plain(value: Any, file: str | Path) -> None:
    """Check that a value consists of None, bools, numbers, text, lists, and dicts by text or number.

    Args:
        value: what was read.
        file: where it was read, for the message.

    Raises:
        ValueError: another type or a control character is in it, or it is too deep or too large; names the file and
            the key.
    """
    left, stack = MAX_VALUES, [("", value, 0)]
    while stack:
        key, node, depth = stack.pop()
        left -= 1
        if depth > MAX_DEPTH or left < 0:
            problem = f"is nested deeper than {MAX_DEPTH} levels" if left >= 0 else f"has more than {MAX_VALUES} values"
            raise ValueError(f"{file}: {shown(key) or 'it'} {problem}; nothing in this project writes that")
        if type(node) is str:
            check_shown(node, f"{file}: {shown(key) or 'it'}")
        if type(node) is dict:
            for name in node:
                check_shown(str(name), f"{file}: a key of {shown(key) or 'it'}")
            strange = [name for name in node if type(name) not in (str, int)]
            if strange:
                raise ValueError(
                    f"{file}: {shown(key) or 'it'} has a key of type {type(strange[0]).__name__}; expected text"
                )
            stack += [(f"{key}.{name}" if key else str(name), item, depth + 1) for name, item in node.items()]
        elif type(node) is list:
            stack += [(f"{key}[{index}]", item, depth + 1) for index, item in enumerate(node)]
        elif type(node) not in SCALARS:
            raise ValueError(
                f"{file}: {shown(key) or 'it'} is of type {type(node).__name__}; expected text, a number, a bool, None "
                "or lists and dicts of these, and nothing else is taken from a file"
            )


def check_shown(text: str, where: str) -> None:
    """Check that a text of a file can be shown on a terminal.

    Args:
        text: the text.
        where: the file and what the text is in it, for the message.

    Raises:
        ValueError: it has control characters.
    """
    if CONTROLS.search(text):
        raise ValueError(
            f"{where} is {shown(text)}: expected text without control characters, which would control the terminal"
        )


def shown(value: Any) -> str:
    """Return a key or value of a file as one short line without control characters, for a message."""
    if isinstance(value, str):
        text = repr(value[:200])[1:-1]
    elif type(value) in SCALARS and not (isinstance(value, int) and value.bit_length() > 200):
        text = str(value)
    else:
        text = f"<{type(value).__name__}>"  # which may be too large to be written out
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file.

    Raises:
        ValueError: it is no JSON object of plain values, or beyond the limits.
    """
    return parse_json(text_of(path, ".json"), path)


def parse_json(text: str, file: str | Path) -> dict[str, Any]:
    """Do what `read_json` does, with text that was read from `file`."""
    if len(text) > MAX_BYTES[".json"]:
        raise ValueError(f"{file}: {len(text)} characters of JSON; expected at most {MAX_BYTES['.json']}")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: it is damaged or not JSON ({error}); copy it again") from error
    if type(content) is not dict:
        raise ValueError(f"{file}: expected a JSON object, found {type(content).__name__}")
    check_plain(content, file)
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file.

    Raises:
        ValueError: it is no YAML mapping of plain values, uses anchors or tags, or is beyond the limits.
    """
    text = text_of(path, ".yaml")
    try:
        check_events(text)
        content = yaml.load(text, LOADER)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: it is damaged or not a config ({first_line(error)}); copy it again") from error
    if type(content) is not dict:
        raise ValueError(f"{path}: expected a mapping of keys, found {type(content).__name__}")
    check_plain(content, path)
    return content


def check_events(text: str) -> None:
    """Reject anchors, a few lines of which can expand to gigabytes, tags and deep nesting before anything is built.

    Raises:
        ValueError: YAML has one of them; names the line.
    """
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None) is not None:
            raise ValueError(f"line {line} has an anchor or alias, which no config of this project has")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"line {line} has the tag {shown(event.tag)}, and tags are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"line {line} is nested deeper than {MAX_DEPTH} levels")


def first_line(error: Exception) -> str:
    """Return the first line of a message, or the name of the error."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def text_of(path: Path, kind: str) -> str:
    """Return the text of a file whose kind has a largest size, or say why it cannot be read."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ValueError(f"{path}: expected a file, found a folder, a pipe or a device")
        if size > MAX_BYTES[kind]:
            raise ValueError(f"{path}: {size} bytes; expected at most {MAX_BYTES[kind]}")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: it is not UTF-8 text ({error.reason}); copy it again") from error


def read_tokenizer(path: Path) -> "Tokenizer":
    """Return the tokenizer of a tokenizer.json; see `load_tokenizer`."""
    from tokenizers import Tokenizer

    return load_tokenizer(lambda: Tokenizer.from_file(str(path)), f"cannot read the tokenizer {path}")


def load_tokenizer(load: Callable[[], "Tokenizer"], failure: str) -> "Tokenizer":
    """Return the tokenizer that `load` returns, tried on some text, without truncation and padding.

    Raises:
        ValueError: begins with `failure`: it cannot be read, breaks over text, or has ids beyond every real vocabulary.
    """
    try:
        with _quiet_stderr(), panics_as_errors("it is broken"):
            tokenizer = prepare(load())
            largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
            if largest > MAX_TOKEN_ID:
                raise ValueError(f"its largest id is {largest}, expected at most {MAX_TOKEN_ID}")
            for add_special_tokens in (False, True):
                with suppress(Exception):  # a closed vocabulary may refuse words; only a panic says that it is broken
                    tokenizer.decode(tokenizer.encode(TRIAL, add_special_tokens=add_special_tokens).ids)
    except Exception as error:  # tokenizers raises bare Exception
        raise ValueError(f"{failure}: {error}; copy it again from where it came") from error
    return tokenizer


def prepare(tokenizer: "Tokenizer") -> "Tokenizer":
    """Turn off truncation and padding, which many published tokenizers enable and which would lose text."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def panics_as_errors(failure: str) -> Iterator[None]:
    """Turn a panic of the Rust side of `tokenizers`, which is no Exception, into a message.

    Raises:
        ValueError: begins with `failure`.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{failure} ({shown(str(error))})") from error


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Discard what libraries write to the process's stderr, and restore it afterwards."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
