"""Refuses what cannot train, or be analyzed, in milliseconds and before anything is written."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

import settings
from launch.cli.arguments import OF_HYDRA, PASSED_TO
from launch.cli.keys import OPTIONAL, REQUIRED, ROOTS
from launch.cli.renamed import renamed_value
from launch.cli.rules import Rule, is_folder_name, shown


def validate(cfg: DictConfig, command: str = "train") -> None:
    """Refuses values that no training, or no study, can do anything with.

    Args:
        cfg: the composed config.
        command: whose config it is, `train` or `analyze`.

    Raises:
        ValueError: one line per fault: the key, what it holds, what is expected.
    """
    faults = [*_unknown(cfg, command), *_faults(cfg, command), *_absent(cfg, command)]
    # Keys are held against each other once each of them alone is in order.
    if not faults:
        faults = [fault for rule in ACROSS[command] for fault in rule(cfg)]
    if faults:
        raise ValueError("\n".join(faults))


def entries(
    node: DictConfig | ListConfig, rules: Mapping[str, Rule], inside: str = "", path: str = ""
) -> Iterator[tuple[str, Rule | None, DictConfig | ListConfig, Any]]:
    """Every value of a config but those that are made of others: its dotted key, its rule, what holds it, and where.

    Args:
        node: a part of the config.
        rules: those of the nearest part with a _target_ of ours around it, or of the root.
        inside: dotted name of `node` in that part, with a dot at its end.
        path: the same from the root.
    """
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
        held, name = node._get_node(key), f"{inside}{key}"
        if _is_made_of_others(held):
            continue
        yield f"{path}{key}", _rule_of(name, rules), node, key
        if not isinstance(held, DictConfig | ListConfig) or held._is_none() or held._is_missing():
            continue
        if isinstance(held, DictConfig) and "_target_" in held:
            passed = {**PASSED_TO.get(str(held._get_node("_target_")), {}), **OF_HYDRA}
            yield from entries(held, passed, "", f"{path}{key}.")
        else:
            yield from entries(held, rules, f"{name}.", f"{path}{key}.")


def _rule_of(key: str, rules: Mapping[str, Rule]) -> Rule | None:
    """The rule for a dotted key, `*` in the names of rules being any one part of it."""
    if key in rules:
        return rules[key]
    parts = key.split(".")
    for pattern, rule in rules.items():
        if "*" in pattern:
            names = pattern.split(".")
            if len(names) == len(parts) and all(a in ("*", b) for a, b in zip(names, parts, strict=True)):
                return rule
    return None


def _faults(cfg: DictConfig, command: str) -> Iterator[str]:
    """Values that their rules do not allow."""
    for path, rule, node, key in entries(cfg, {**ROOTS[command], **OPTIONAL}):
        if rule is None:
            continue
        if OmegaConf.is_missing(node, key):
            if not rule.is_filled_later:
                yield f"{path}: there has to be a value: expected {rule.expected}"
        elif not rule.fits(value := _plain(node[key])):
            yield fault(path, value, rule)


def fault(key: str, value: Any, rule: Rule) -> str:
    """What is wrong with the value of a key, and what to type where that is plain."""
    hint = ""
    if present := renamed_value(key, value):
        hint = f"; {shown(value)} is now {present}"
    elif isinstance(value, float) and value.is_integer() and rule.fits(int(value)):
        hint = f"; type {key}={int(value)}"
    elif not isinstance(value, list | dict) and rule.fits([value]) and len(rule.words) == 1:
        hint = f"; type {key}=[{shown(value)}]"
    return f"{key}={shown(value)}: expected {rule.expected}{hint}"


def _is_made_of_others(node: Any) -> bool:
    """Whether it is made of other keys' values, `${width}`, which are checked where they stand."""
    raw = node._value()
    return isinstance(raw, str) and "${" in raw and ":" not in raw


def _plain(value: Any) -> Any:
    """The value as lists and dicts; what stands in a dict is looked at by itself, and resolved only there."""
    if not isinstance(value, DictConfig | ListConfig):
        return value
    return OmegaConf.to_container(value, resolve=isinstance(value, ListConfig))


def _unknown(cfg: DictConfig, command: str) -> Iterator[str]:
    """Root keys that nothing reads: `+widht=64` gets past Hydra, which takes the + for intent."""
    known = settings.root_keys(command)
    for key in cfg:
        if str(key) not in known:
            yield f"+{key}: nothing reads this key; root keys are {', '.join(known)}"
    if command == "train" and OmegaConf.select(cfg, "task._target_") in PASSED_TO:
        known = [name.removeprefix("optim.") for name in (*ROOTS[command], *OPTIONAL) if name.startswith("optim.")]
        for key in cfg.get("optim") or ():
            if key not in known:
                yield f"+optim.{key}: nothing reads this key; keys of optim are {', '.join(known)}"


def _absent(cfg: DictConfig, command: str) -> Iterator[str]:
    """Keys that a ~ on the command line took out, or `null` in the place of a choice of their group."""
    needed = list(ROOTS[command].items())
    if command == "train" and OmegaConf.select(cfg, "trainer") is not None:
        trainer = PASSED_TO["pytorch_lightning.Trainer"]
        needed += [(f"trainer.{key}", trainer[key]) for key in REQUIRED]
    for key, rule in needed:
        if "*" in key:
            continue
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig) or last not in node:
            yield f"{key}: it is not there, and has to be: expected {rule.expected}"


def _heads(cfg: DictConfig) -> Iterator[str]:
    d_head = cfg.model.get("d_head")
    if d_head is None or cfg.width % d_head == 0:
        return
    below = cfg.width // d_head * d_head
    nearest = " or ".join(f"width={width}" for width in (below, below + d_head) if width > 0)
    divisors = [d for d in (16, 32, 64, 128) if cfg.width % d == 0]
    smaller = f", or a head size that divides it, such as model.d_head={divisors[-1]}" if divisors else ""
    yield (
        f"width={cfg.width}: the heads are model.d_head={d_head} wide and {d_head} does not divide {cfg.width}; "
        f"nearest that work: {nearest}{smaller}"
    )


def _rotary(cfg: DictConfig) -> Iterator[str]:
    share, d_head = cfg.model.get("rotary_share"), cfg.model.get("d_head")
    if share is None or d_head is None or (turned := int(d_head * share)) >= 2 and turned % 2 == 0:
        return
    yield (
        f"model.rotary_share={share} of model.d_head={d_head} is {turned} dimensions, and rotary positions turn them "
        f"in pairs: expected an even number, 2 or more; type model.rotary_share={2 / d_head if d_head > 1 else 1.0:g} "
        "or another model.d_head"
    )


def _groups(cfg: DictConfig) -> Iterator[str]:
    """Groups with a name of no word, of what is no reference, or that share one."""
    listed = ",".join(cfg.references)
    member_of: dict[str, str] = {}
    for name, members in (cfg.reference_groups or {}).items():
        if not re.fullmatch(r"\w+", str(name)):
            yield f"reference_groups: {name!r}: expected a name of letters, digits and _, such as good"
        for uri in members:
            if uri not in cfg.references:
                yield f"reference_groups.{name}: {uri} is not among references=[{listed}]; list it there too"
            if uri in member_of:
                yield f"reference_groups.{name}: {uri} is in {member_of[uri]} already; leave it in one of them"
            member_of[uri] = str(name)


def _twice(cfg: DictConfig) -> Iterator[str]:
    key = "references" if "references" in cfg else "models"
    uris = list(cfg[key]) if isinstance(cfg[key], ListConfig) else []
    if twice := sorted({uri for uri in uris if uris.count(uri) > 1}):
        yield f"{key}=[{','.join(uris)}]: {', '.join(twice)} stands there twice; leave it there once"


def _probe(cfg: DictConfig) -> Iterator[str]:
    n_ctx = cfg.data.get("n_ctx")
    if n_ctx is not None and cfg.probe.length > n_ctx:
        yield f"probe.length={cfg.probe.length}: longer than the model's context; at most data.n_ctx={n_ctx}"


def _control(cfg: DictConfig) -> Iterator[str]:
    """Outlier control that leaves no position of a sequence, where its length is known."""
    control, length = cfg.control, cfg.probe.length
    if length is not None and len(range(control.skip_first, length, control.every)) <= control.drop_top_norm:
        keys = ", ".join(f"control.{key}={control[key]}" for key in ("skip_first", "every", "drop_top_norm"))
        yield f"{keys}: none of the probe.length={length} positions of a sequence would be left; lower them"


def _name(cfg: DictConfig) -> Iterator[str]:
    name = settings.run_name(cfg) if "width" in cfg else settings.study_name(cfg)
    if not is_folder_name(name):
        yield f"name={name!r}: expected the name of a folder, at most 200 bytes, without / \\ @ = , and blanks"


def _batch(cfg: DictConfig) -> Iterator[str]:
    devices, batch = cfg.trainer.devices, cfg.data.get("batch_size")
    count = len(devices) if isinstance(devices, ListConfig) else devices
    if not isinstance(count, int) or count < 1 or batch is None or batch % (count * cfg.trainer.num_nodes) == 0:
        return
    processes = count * cfg.trainer.num_nodes
    nearest = [str(size) for size in (batch // processes * processes, (batch // processes + 1) * processes) if size]
    yield (
        f"data.batch_size={batch}: it is shared by {processes} processes and {processes} does not divide it; "
        f"nearest that work: {' or '.join(nearest)}"
    )


def _dev_run(cfg: DictConfig) -> Iterator[str]:
    """Lightning's fast_dev_run, which leaves a folder without tables and checkpoints."""
    if cfg.trainer.get("fast_dev_run"):
        yield (
            f"trainer.fast_dev_run={shown(cfg.trainer.fast_dev_run)}: such a run leaves no tables and no checkpoints; "
            "type debug=fdr for three steps through every part, in a folder of its own"
        )


def _stitching(cfg: DictConfig) -> Iterator[str]:
    if "stitching" in cfg.callbacks and settings.classifies(cfg):
        yield (
            "callbacks=stitching task=classify: the stitching penalty is a loss of the next token, and a classifier "
            "has none; type callbacks=default (stitched classifiers are in python analyze.py study=generalization)"
        )


def _models(cfg: DictConfig) -> Iterator[str]:
    """`models` that are no list and no published family, and sizes that it does not have."""
    if cfg.models in list(settings.PUBLISHED):
        known = settings.PUBLISHED[cfg.models][1]
        strangers = [size for size in cfg.sizes or [] if size not in known]
        if strangers or not (cfg.sizes or cfg.models in settings.SMALL):
            yield f"sizes={shown(_plain(cfg.sizes))}: expected sizes of models={cfg.models}, out of {', '.join(known)}"
    elif isinstance(cfg.models, str):
        families = " or ".join(f"models={name}" for name in settings.PUBLISHED)
        yield f"models={cfg.models}: expected a list, such as models=[{cfg.models}], or {families}"
    elif cfg.sizes is not None:
        yield f"sizes={shown(_plain(cfg.sizes))}: sizes are of a published family, such as models=pythia"


def _size(cfg: DictConfig) -> Iterator[str]:
    sizes = cfg.study.get("sizes")
    if sizes is not None and cfg.size not in sizes:
        yield f"size={cfg.size}: expected one of {', '.join(sizes)}"


ACROSS = {
    "train": (_heads, _rotary, _groups, _twice, _probe, _control, _name, _batch, _dev_run, _stitching),
    "analyze": (_models, _size, _twice, _control, _name),
}
"""Rules over several keys, each of which is in order by itself."""
