"""Keys that a mistyped or misplaced key may stand for, best first."""

import difflib
import re

from omegaconf import DictConfig, Node, OmegaConf

from launch.cli.renamed import ELSEWHERE

MAX_SUGGESTIONS = 3


def nearest(word: str, words: list[str], count: int = MAX_SUGGESTIONS, cutoff: float = 0.5) -> list[str]:
    """Return the words most like `word`, best first; none if none is like it."""
    return difflib.get_close_matches(word, words, count, cutoff)


def suggestions(key: str, cfg: DictConfig, keys: list[str]) -> list[str]:
    """Return the keys that `key` may stand for.

    A key beside it that is spelled alike comes before the same last part elsewhere only if `key` is in the right place;
    then come last parts with the same words, names of other programs, and what is spelled alike anywhere.

    Args:
        key: A key that does not exist, as it was typed.
        cfg: The config of the command.
        keys: The dotted names of its keys and groups.

    Examples:
        >>> tree = OmegaConf.create({"width": 8, "trainer": {"max_steps": 3}, "model": {"d_model": "${width}"}})
        >>> [suggestions(key, tree, dotted_keys(tree)) for key in ("max_steps", "d_model", "widht")]
        [['trainer.max_steps'], ['width'], ['width']]
    """
    parent, _, leaf = key.rpartition(".")
    leaves = {name: name.rpartition(".")[2] for name in keys}
    same = [name for name in keys if leaves[name] == leaf]
    other = ELSEWHERE.get(leaf)
    if other and (leaf == "max_epochs" or not same):
        same = [name for name in keys if leaves[name] == other] or [name for name in keys if _has_words(name, other)]
    beside = {name.rpartition(".")[2]: name for name in keys if parent and name.rpartition(".")[0] == parent}
    alike = [beside[name] for name in nearest(leaf, list(beside))]
    spelled = nearest(leaf, sorted(set(leaves.values())), cutoff=0.7)
    anywhere = [name for word in spelled for name in keys if leaves[name] == word]
    candidates = same or alike or [name for name in keys if _has_words(name, leaf)] or anywhere
    return list(dict.fromkeys(_source(cfg, name) for name in candidates))[:MAX_SUGGESTIONS]


def dotted_keys(cfg: DictConfig, prefix: str = "") -> list[str]:
    """Return the dotted names of all keys, inner nodes included."""
    names = []
    for key in cfg:
        name = f"{prefix}{key}"
        names.append(name)
        node = cfg._get_node(key)
        if (
            isinstance(node, DictConfig)
            and not node._is_none()
            and not node._is_interpolation()
            and not node._is_missing()
        ):
            names += dotted_keys(node, f"{name}.")
    return names


def _has_words(name: str, words: str) -> bool:
    """Return whether the last part of a key consists of some words and others: `lr` is a word of `lr_matrices`."""
    return set(words.split("_")) <= set(name.rpartition(".")[2].split("_"))


def _source(cfg: DictConfig, name: str) -> str:
    """Return the key that decides the value of another, such as `width` for `model.d_model`."""
    parent, _, leaf = name.rpartition(".")
    holder = OmegaConf.select(cfg, parent) if parent else cfg
    node = holder._get_node(leaf) if isinstance(holder, DictConfig) and leaf in holder else None
    raw = node._value() if isinstance(node, Node) else None
    match = re.fullmatch(r"\$\{([\w.]+)\}", raw) if isinstance(raw, str) else None
    return _source(cfg, match[1]) if match else name
