"""The reference of all configuration keys, generated from the comments of conf/.

A key is documented by the end of its line, `# TYPE: MEANING`, a choice of a group by the first comment of its file.
`python -m launch.cli.reference > docs/configuration.md` writes the page.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from launch.cli.compose import CONF, groups

HEAD = """\
# Configuration

Every choice is a key of the configuration. Set keys on the command line: `python train.py width=256 model=gelu`, nested
keys with dots: `trainer.max_steps=1000`. A group such as `model` takes one of its choices, each a file under `conf/`.
`python train.py --cfg job` prints the configuration that a command would use. In a default, `${key}` stands for the
value of another key, and `???` for a value that is required or filled in.

`-m` trains every combination of comma-separated values: `python train.py -m model=solu,gelu seed=0,1,2`. All values
are checked before the first job trains. The name of a run contains the swept values, such as
`solu-w128-d2-s0-batch_size4` for `-m data.batch_size=2,4`. Repeating a command continues the same sweep, with the same
folder under `sweeps/` and the same W&B group.
`-m hparams_search=optuna` (`pip install -e ".[sweep]"`) searches learning rates with Optuna for the lowest
`optimized_metric`; `-m hydra/sweeper=optuna 'optim.lr_matrices=interval(0.0005,0.01)'` searches any key.

This page is generated from the comments in `conf/`: `python -m launch.cli.reference > docs/configuration.md`.
"""
INNER = {"data": ("data/tokenizer", "data.tokenizer."), "measures": ("measure", "measures.NAME.")}
"""Groups that the choices of another group are composed of, and the place of their keys."""
DIFFERENT = ("data", "study")
"""Groups whose choices have keys of their own; the choices of any other group share theirs."""
PRESETS = ("experiment", "hparams_search", "debug")
"""Groups whose choices only set keys that are documented elsewhere."""
BY_CHOICE = "depends on the choice"
TYPES = r"(a |an )?(dict|list|module|source|str|int|float|bool)\b"
LINE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#\s][^#]*?))?(?: +# (?P<comment>.*))?")


@dataclass(frozen=True)
class Key:
    """A documented key.

    Attributes:
        name: Dotted name, as it is typed.
        kind: The type of its value or the values that it can have; empty for a key that only holds other keys.
        meaning: What it does.
        default: Its value in the file.
    """

    name: str
    kind: str
    meaning: str
    default: str


def documented_keys(path: Path, prefix: str = "") -> list[Key]:
    """Return the keys of a YAML file that have a comment, in the order of the file.

    Args:
        path: The file.
        prefix: What precedes the names: the group of the file, with a dot.

    Examples:
        >>> [key.name for key in documented_keys(CONF / "data/tokenizer/hub.yaml", "data.tokenizer.")]
        ['data.tokenizer.name', 'data.tokenizer.revision']
    """
    keys: list[Key] = []
    parents: list[str] = []
    for match in map(LINE.fullmatch, path.read_text(encoding="utf-8").splitlines()):
        if match is None:
            continue
        parents[len(match["indent"]) // 2 :] = [match["key"]]
        comment, default = match["comment"], match["value"] or ""
        if comment is None or parents[0] == "defaults" or match["key"] == "_target_":
            continue
        kind, colon, meaning = comment.partition(": ")
        if not colon or not (default or re.match(TYPES, kind)):
            kind, meaning = "", comment
        keys.append(Key(prefix + ".".join(parents), kind, meaning, default))
    return keys


def description(path: Path) -> str:
    """Return the comment at the head of a YAML file as one line.

    Examples:
        >>> description(CONF / "model/relu.yaml")
        'ReLU instead of GELU.'
    """
    lines = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines if not line.startswith("# @package"))


def choices(group: str, folders: Iterable[Path] = (CONF,)) -> dict[str, Path]:
    """Return the choices of a config group and their files, in alphabetical order.

    Examples:
        >>> list(choices("data/tokenizer"))
        ['bpe', 'file', 'hub']
    """
    paths = {path.stem: path for folder in folders for path in (folder / group).glob("*.yaml") if path.stem != "base"}
    return dict(sorted(paths.items()))


def merged(keys: Iterable[Key]) -> list[Key]:
    """Return each key once; a default that differs between choices is not given."""
    defaults: dict[Key, set[str]] = {}
    for key in keys:
        defaults.setdefault(replace(key, default=""), set()).add(key.default)
    return [replace(key, default=values.pop() if len(values) == 1 else BY_CHOICE) for key, values in defaults.items()]


def page() -> str:
    """Return the content of docs/configuration.md."""
    train = groups("train")
    lines = [HEAD, *_command("train", train), *_command("analyze", [g for g in groups("analyze") if g not in train])]
    return "\n".join(lines).rstrip() + "\n"


def _command(command: str, shown: list[str]) -> Iterator[str]:
    """Yield the lines about one command and some of its groups."""
    path = CONF / f"{command}.yaml"
    meanings = dict(re.findall(r"^  - (\w+): \w+ # (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
    yield from (f"## python {command}.py", "")
    yield from _key_table(documented_keys(path))
    for group in shown:
        yield from (f"### {group}", "", f"{meanings[group][0].upper()}{meanings[group][1:]}: `{group}=CHOICE`.", "")
        yield from _group(group, f"{group}.")
        if group in INNER:
            inner, prefix = INNER[group]
            yield from (f"### {inner}", "")
            yield from _group(inner, prefix)


def _group(group: str, prefix: str) -> Iterator[str]:
    """Yield the tables of a group: its choices, and their keys."""
    paths = choices(group)
    yield from ("| choice | |", "| --- | --- |")
    yield from (f"| `{name}` | {_cell(description(path))} |" for name, path in paths.items())
    yield ""
    if group in PRESETS:
        return
    if group not in DIFFERENT:
        yield from _key_table(merged(key for path in paths.values() for key in _keys(path, prefix)))
        return
    for base in (*CONF.glob(f"{group}/base.yaml"), *sorted(CONF.glob(f"{group}/*/base.yaml"))):
        yield from (description(base), "")
        yield from _key_table(_keys(base, prefix))
    for name, path in paths.items():
        if keys := _keys(path, prefix):
            yield from (f"`{group}={name}`:", "")
            yield from _key_table(keys)


def _keys(path: Path, prefix: str) -> list[Key]:
    """Return the documented keys of a choice; a file of the package _global_ names them from the root."""
    is_global = "# @package _global_" in path.read_text(encoding="utf-8")
    return documented_keys(path, "" if is_global else prefix)


def _key_table(keys: list[Key]) -> Iterator[str]:
    if not keys:
        return
    yield from ("| key | type | meaning | default |", "| --- | --- | --- | --- |")
    for key in keys:
        default = f"`{_cell(key.default)}`" if key.default not in ("", BY_CHOICE) else key.default
        yield f"| `{key.name}` | {_cell(key.kind)} | {_cell(key.meaning)} | {default} |"
    yield ""


def _cell(text: str) -> str:
    """Escape what Markdown would read as the end of a cell or as a tag."""
    return text.replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    print(page(), end="")
