"""Checks of a config that take milliseconds and come before anything is written."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

import settings
from dissimilarity.loading.config import check_model_folder
from dissimilarity.tables.names import normal_form
from launch.cli.arguments import CLASS_ARGUMENTS, HYDRA_ARGUMENTS
from launch.cli.keys import OPTIONAL, REQUIRED, ROOTS
from launch.cli.renamed import renamed_value
from launch.cli.rules import Rule, is_folder_name, shown


def validate(cfg: DictConfig, command: str = "train") -> None:
    """Reject values with which no training or study can work.

    Args:
        cfg: The composed config.
        command: The command it belongs to, `train` or `analyze`.

    Raises:
        ValueError: With one line per fault: the key, its value, and what is expected.
    """
    lines = [*_unknown(cfg, command), *faults(cfg, {**ROOTS[command], **OPTIONAL}), *_absent(cfg, command)]
    # Rules over several keys assume that each key is valid by itself.
    if not lines:
        lines = [line for rule in ACROSS[command] for line in rule(cfg)]
    if lines:
        raise ValueError("\n".join(lines))


def entries(
    node: DictConfig | ListConfig, rules: Mapping[str, Rule], inside: str = "", path: str = ""
) -> Iterator[tuple[str, Rule | None, DictConfig | ListConfig, Any]]:
    """Yield the dotted key, the rule, the container and the place in it of every value except interpolations.

    Args:
        node: A part of the config.
        rules: The rules of the nearest enclosing part with a _target_ of ours, or of the root.
        inside: Dotted name of `node` in that part, with a dot at its end.
        path: Dotted name of `node` from the root, with a dot at its end.
    """
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
        value, name = node._get_node(key), f"{inside}{key}"
        if _is_made_of_others(value):
            continue
        yield f"{path}{key}", rule_of(name, rules), node, key
        if not isinstance(value, DictConfig | ListConfig) or value._is_none() or value._is_missing():
            continue
        if isinstance(value, DictConfig) and "_target_" in value:
            passed = {**CLASS_ARGUMENTS.get(str(value._get_node("_target_")), {}), **HYDRA_ARGUMENTS}
            yield from entries(value, passed, "", f"{path}{key}.")
        else:
            yield from entries(value, rules, f"{name}.", f"{path}{key}.")


def rule_of(key: str, rules: Mapping[str, Rule]) -> Rule | None:
    """Return the rule for a dotted key; `*` in the name of a rule stands for any one part."""
    if key in rules:
        return rules[key]
    parts = key.split(".")
    for pattern, rule in rules.items():
        if "*" in pattern:
            names = pattern.split(".")
            if len(names) == len(parts) and all(a in ("*", b) for a, b in zip(names, parts, strict=True)):
                return rule
    return None


def faults(cfg: DictConfig, rules: Mapping[str, Rule]) -> Iterator[str]:
    """Yield a line per value that its rule does not allow; `rules` are those outside of parts."""
    for path, rule, node, key in entries(cfg, rules):
        if rule is None:
            continue
        if OmegaConf.is_missing(node, key):
            if not rule.is_filled_later:
                yield f"{path}: a value is required: expected {rule.expected}"
        elif not rule.fits(value := _plain(node[key])):
            yield fault(path, value, rule)


def fault(key: str, value: Any, rule: Rule) -> str:
    """Return what is wrong with the value of a key, and what to type if that is clear."""
    hint = ""
    if present := renamed_value(key, value):
        hint = f"; {shown(value)} is now {present}"
    elif isinstance(value, float) and value.is_integer() and rule.fits(int(value)):
        hint = f"; type {key}={int(value)}"
    elif not isinstance(value, list) and rule.fits([value]) and len(rule.words) == 1:
        hint = f"; type {shlex.quote(f'{key}=[{shown(value)}]')}"
    return f"{key}={shown(value)}: expected {rule.expected}{hint}"


def _is_made_of_others(node: Any) -> bool:
    """Return whether the value is that of other keys, such as `${width}`, which are checked under their own names."""
    raw = node._value()
    return isinstance(raw, str) and "${" in raw and ":" not in raw


def _plain(value: Any) -> Any:
    """Return the value as lists and dicts; values in a dict are checked, and resolved, one by one later."""
    if not isinstance(value, DictConfig | ListConfig):
        return value
    return OmegaConf.to_container(value, resolve=isinstance(value, ListConfig))


def _unknown(cfg: DictConfig, command: str) -> Iterator[str]:
    """Yield a line per unknown key: Hydra accepts `+widht=64`, because the + asks for a new key."""
    keys = settings.root_keys(command)
    for key in cfg:
        if str(key) not in keys:
            yield f"+{key}: unknown key; the root keys are {', '.join(keys)}"
    if command == "train" and OmegaConf.select(cfg, "task._target_") in CLASS_ARGUMENTS:
        keys = [name.removeprefix("optim.") for name in (*ROOTS[command], *OPTIONAL) if name.startswith("optim.")]
        for key in cfg.get("optim") or ():
            if key not in keys:
                yield f"+optim.{key}: unknown key; the keys of optim are {', '.join(keys)}"


def _absent(cfg: DictConfig, command: str) -> Iterator[str]:
    """Yield a line per key that ~ on the command line removed, or that is missing because its group is null."""
    needed = list(ROOTS[command].items())
    if command == "train" and OmegaConf.select(cfg, "trainer") is not None:
        trainer = CLASS_ARGUMENTS["pytorch_lightning.Trainer"]
        needed += [(f"trainer.{key}", trainer[key]) for key in REQUIRED]
    for key, rule in needed:
        if "*" in key:
            continue
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig) or last not in node:
            yield f"{key}: this key is required: expected {rule.expected}"


def _heads(cfg: DictConfig) -> Iterator[str]:
    d_head = cfg.model.get("d_head")
    if d_head is None or cfg.width % d_head == 0:
        return
    below = cfg.width // d_head * d_head
    nearest = " or ".join(f"width={width}" for width in (below, below + d_head) if width > 0)
    divisors = [d for d in (16, 32, 64, 128) if cfg.width % d == 0]
    smaller = f", or a head size that divides it, such as model.d_head={divisors[-1]}" if divisors else ""
    yield (
        f"width={cfg.width}: the heads are model.d_head={d_head} wide, and {d_head} does not divide {cfg.width}; "
        f"nearest that work: {nearest}{smaller}"
    )


def _rotary(cfg: DictConfig) -> Iterator[str]:
    share, d_head = cfg.model.get("rotary_share"), cfg.model.get("d_head")
    if share is None or d_head is None:
        return
    turned = int(d_head * share)
    if turned >= 2 and turned % 2 == 0:
        return
    yield (
        f"model.rotary_share={share} of model.d_head={d_head} is {turned} dimensions, and rotary positions rotate "
        f"them in pairs: expected an even number, 2 or more; "
        f"type model.rotary_share={2 / d_head if d_head > 1 else 1.0:g} or another model.d_head"
    )


def _optimized(cfg: DictConfig) -> Iterator[str]:
    """Yield a line for a number that no summary has, or for a curve of a reference that is not listed.

    Which other columns metrics.csv has shows only after the training.
    """
    from launch.run.form import SUMMARY, WORDS

    name, curves = cfg.optimized_metric, [f"dissimilarity/{uri}/" for uri in cfg.references]
    numbers = [key for key in SUMMARY if key not in WORDS]
    if name.startswith("dissimilarity/") and not name.startswith(tuple(curves)):
        yield (
            f"optimized_metric={name}: expected dissimilarity/REFERENCE/MEASURE/SITE with a reference out of "
            f"references=[{','.join(cfg.references)}]"
        )
    elif "/" not in name and name.partition(".")[0] not in numbers:
        yield (
            f"optimized_metric={name}: expected a number of summary.json ({', '.join(numbers)}) or a column of "
            "metrics.csv, such as val/loss"
        )


def _groups(cfg: DictConfig) -> Iterator[str]:
    """Yield a line per reference group with an unusable name, an unlisted member, or a member of another group.

    And one for an alert that needs two groups.
    """
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
    names = [alert.rule if isinstance(alert, DictConfig) else alert for alert in cfg.alerts]
    if "nearest" in names and len(cfg.reference_groups or {}) < 2:
        yield "alerts: nearest needs two groups of references or more; type 'reference_groups={a:[...],b:[...]}'"


def _twice(cfg: DictConfig) -> Iterator[str]:
    key = "references" if "references" in cfg else "models"
    uris = list(cfg[key]) if isinstance(cfg[key], ListConfig) else []
    runs_dir = f"{cfg.runs_dir}/"
    forms = [normal_form(uri.replace("runs/", runs_dir, 1) if uri.startswith("runs/") else uri) for uri in uris]
    if twice := list(dict.fromkeys(uri for uri, form in zip(uris, forms, strict=True) if forms.count(form) > 1)):
        which = f"{twice[0]} is" if len(twice) == 1 else f"{' and '.join(twice)} are the same model,"
        yield f"{key}=[{','.join(uris)}]: {which} listed twice; list it once"


def _measures(cfg: DictConfig) -> Iterator[str]:
    """Yield a line if a tracker has no measure."""
    if not cfg.measures and any("measures" in node for node in (cfg.callbacks or {}).values()):
        yield "measures: expected one measure or more, found none; type measures=none +measure@measures.cka=cka"


def _folders(cfg: DictConfig) -> Iterator[str]:
    """Yield a line for a Hugging Face folder whose JSON alone shows that it cannot be loaded."""
    sources = cfg.get("references", cfg.get("models"))
    for uri in (*(sources if isinstance(sources, ListConfig) else ()), cfg.get("init_from")):
        folder = Path(uri.removeprefix("hf:")) if isinstance(uri, str) and uri.startswith("hf:") else None
        if folder is not None and folder.is_dir():
            try:
                check_model_folder(folder, uri)
            except ValueError as error:
                yield str(error)


def _probe(cfg: DictConfig) -> Iterator[str]:
    n_ctx = cfg.data.get("n_ctx")
    if n_ctx is not None and cfg.probe.length > n_ctx:
        yield f"probe.length={cfg.probe.length}: longer than the model's context; at most data.n_ctx={n_ctx}"


def _control(cfg: DictConfig) -> Iterator[str]:
    """Yield a line for outlier control that leaves no position of a sequence, if its length is known."""
    control, length = cfg.control, cfg.probe.length
    if length is not None and len(range(control.skip_first, length, control.every)) <= control.drop_top_norm:
        keys = ", ".join(f"control.{key}={control[key]}" for key in ("skip_first", "every", "drop_top_norm"))
        yield f"{keys}: this leaves none of the probe.length={length} positions of a sequence; lower these numbers"


def _name(cfg: DictConfig) -> Iterator[str]:
    name = settings.run_name(cfg) if "width" in cfg else settings.study_name(cfg)
    if not is_folder_name(name):
        yield f"name={name!r}: expected the name of a folder, at most 200 bytes, without / \\ @ = , and spaces"


def _memory(cfg: DictConfig) -> Iterator[str]:
    """Yield a line for a model whose attention weights alone, in float32, are larger than this machine's memory."""
    needed = 4 * 4 * cfg.depth * cfg.width**2
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        yield (
            f"width={cfg.width} depth={cfg.depth}: such a model has {needed / 1e9:,.0f} GB of attention weights alone, "
            f"and this machine has {memory / 1e9:,.0f} GB of memory; type a smaller width or depth"
        )


def _batch(cfg: DictConfig) -> Iterator[str]:
    devices, batch = cfg.trainer.devices, cfg.data.get("batch_size")
    count = len(devices) if isinstance(devices, ListConfig) else devices
    if not isinstance(count, int) or count < 1 or batch is None or batch % (count * cfg.trainer.num_nodes) == 0:
        return
    processes = count * cfg.trainer.num_nodes
    nearest = [str(size) for size in (batch // processes * processes, (batch // processes + 1) * processes) if size]
    yield (
        f"data.batch_size={batch}: it is divided among {processes} processes, and {processes} does not divide it; "
        f"nearest that work: {' or '.join(nearest)}"
    )


def _epochs(cfg: DictConfig) -> Iterator[str]:
    """Yield a line for a number of epochs that would be ignored: without a limit, one epoch is the whole training."""
    epochs, limit = cfg.trainer.get("max_epochs"), cfg.trainer.get("limit_train_batches")
    if epochs not in (None, -1) and limit is None and not cfg.trainer.get("overfit_batches"):
        yield (
            f"trainer.max_epochs={epochs}: batches follow from seed and step, so a training has no epochs; "
            f"type its number of steps, such as trainer.max_steps={cfg.trainer.max_steps}"
        )


def _dev_run(cfg: DictConfig) -> Iterator[str]:
    """Yield a line for Lightning's fast_dev_run, which leaves a folder without tables and checkpoints."""
    if cfg.trainer.get("fast_dev_run"):
        yield (
            f"trainer.fast_dev_run={shown(cfg.trainer.fast_dev_run)}: such a run leaves no tables and no checkpoints; "
            "type debug=fdr for three steps through every part, in a folder of its own"
        )


def _stitching(cfg: DictConfig) -> Iterator[str]:
    targets = [node.get("_target_") for node in cfg.callbacks.values()]
    if "callbacks.stitching.RunStitching" in targets and settings.classifies(cfg):
        yield (
            "callbacks=stitching task=classify: the stitching penalty is a next-token loss, which a classifier does "
            "not have; type callbacks=default (python analyze.py study=generalization stitches classifiers)"
        )


def _models(cfg: DictConfig) -> Iterator[str]:
    """Yield a line for `models` that is neither a list nor a published family, or for sizes that the family lacks."""
    if cfg.models in list(settings.PUBLISHED):
        sizes = settings.PUBLISHED[cfg.models][1]
        unknown = [size for size in cfg.sizes or [] if size not in sizes]
        if unknown or not (cfg.sizes or cfg.models in settings.SMALL):
            yield f"sizes={shown(_plain(cfg.sizes))}: expected sizes of models={cfg.models}, out of {', '.join(sizes)}"
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
    "train": (
        _heads,
        _rotary,
        _optimized,
        _groups,
        _twice,
        _measures,
        _folders,
        _probe,
        _control,
        _name,
        _memory,
        _batch,
        _epochs,
        _dev_run,
        _stitching,
    ),
    "analyze": (_models, _size, _twice, _folders, _control, _name),
}
"""Rules over several keys, each of which is valid by itself."""
