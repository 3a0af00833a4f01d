"""Checks of a command before anything heavy is imported; a sweep is checked for every value of every key."""

import argparse
import copy
import hashlib
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf, open_dict

import settings
from launch.cli.compose import CONF, compose, searched
from launch.cli.reference import choices
from launch.cli.sweep import BASIC
from launch.cli.validate import validate

SWEEPING = ("hparams_search", "hydra/sweeper")
HOW_JOBS_RUN = ("hydra/launcher", "hydra.launcher", "hydra.sweep.", "hydra.job.", "overwrite")
"""Beginnings of overrides that do not decide which jobs a sweep has."""


def check(args: argparse.Namespace, config_name: str = "train") -> list[str]:
    """Compose and validate what a command line asks for; in a sweep, every value of every key.

    Each key is varied alone, with the other keys at their first value, so that a sweep of many jobs is checked in a
    moment. A combination of later values that cannot train fails as its own job.

    Args:
        args: The command line as parsed by Hydra.
        config_name: The primary config.

    Returns:
        Overrides of Hydra's own config that the command also needs: the folder and the names of a sweep.

    Raises:
        hydra.errors.HydraException, omegaconf.errors.OmegaConfBaseException: If it does not compose.
        ValueError: If it composes but cannot train.
    """
    if args.multirun and config_name != "train":
        raise ValueError("-m: sweeps are for trainings; a study takes several models: models=[runs/a,runs/b,runs/c]")
    overrides = [override for override in args.overrides if not override.startswith("hydra.searchpath=")]
    if folders := searched(args):
        overrides.append(f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]")
    parsed = OverridesParser.create().parse_overrides(overrides)
    for override in parsed:
        group = override.key_or_group
        is_name = override.is_sweep_override() or isinstance(override.value(), str | list | dict)
        if (CONF / group).is_dir() and group != "hparams_search" and not is_name:
            _refuse_value(override)
        if group in SWEEPING and not args.multirun:
            typed = shlex.join(overrides)
            raise ValueError(f"{override.input_line}: this is for sweeps; type python train.py -m {typed}")
    if args.multirun:
        return _check_sweep(parsed)
    validate(compose(overrides, config_name), config_name)
    return []


def _refuse_value(override: Override) -> None:
    """Raise ValueError for a group with a value that is no name, such as `group=null`, which Hydra does not accept."""
    group = override.key_or_group
    if not override.is_delete():
        names = ", ".join(choices(group))
        raise ValueError(f"{override.input_line}: expected one of {names}; leave {group}= out for the default")


def _check_sweep(typed: list[Override]) -> list[str]:
    """Check a sweep; return its folder, and the keys that need not be in the names of its runs, as overrides."""
    cfg = compose([_singles(override)[0] for override in typed], with_hydra=True)
    with open_dict(cfg):
        hydra = cfg.pop("hydra")
    is_basic = hydra.sweeper._target_ == BASIC
    keys = {override.key_or_group for override in typed}
    params = hydra.sweeper.get("params") or {}
    lines = [f"{key}={params[key]}" for key in params if str(key).lstrip("+~") not in keys]
    overrides = [*OverridesParser.create().parse_overrides(lines), *typed]
    singles = [_singles(override, is_basic) for override in overrides]
    first = [values[0] for values in singles]
    cfg = compose(first) if lines or not is_basic else cfg
    _refuse_processes(cfg)
    validate(cfg)
    excluded = []  # keys with one value, and those whose values the usual name of a run tells apart
    for index, override in enumerate(overrides):
        configs = [cfg]
        for single in singles[index][1:]:
            configs.append(_changed(cfg, first, index, override, single))
            validate(configs[-1])
        if not override.is_sweep_override() or _tells_apart(override, singles[index], configs, "name" in keys):
            excluded.append(override.key_or_group)
    more = [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(excluded)}]"]
    if "hydra.sweep.dir" not in keys:
        more.append(f"hydra.sweep.dir=sweeps/{_sweep_name(overrides)}")
    return more


def _tells_apart(override: Override, singles: list[str], configs: list[DictConfig], is_named: bool) -> bool:
    """Return whether the usual name of a run tells the values of a key apart; `is_named`: the command line has name=.

    Raises:
        ValueError: If a value is there twice, or the command names all its runs alike, so that they share a folder.
    """
    key, name = override.key_or_group, configs[0].name
    if repeated := [single for single in singles if singles.count(single) > 1]:
        raise ValueError(f"{override.input_line}: {repeated[0].partition('=')[2]} is there twice; type it once")
    distinct = len({settings.run_name(cfg) for cfg in configs}) == len(configs)
    if name is None or distinct:
        return distinct and not override.is_interval_sweep()
    remedies = ["leave name= out, and names say what is swept"] if is_named else []
    if isinstance(OmegaConf.select(configs[0], key), int | float):
        remedies.insert(0, f"type 'name={name}-${{{key}}}'")
    raise ValueError(
        f"name={name}: the jobs {singles[0]} and {singles[1]} would share the folder {configs[0].runs_dir}/{name}; "
        f"{', or '.join(remedies) or 'start them one by one, each with a name'}"
    )


def _sweep_name(overrides: list[Override]) -> str:
    """Return the same name for the same jobs, so that a restarted sweep is the same one."""
    swept = [override.key_or_group.rpartition(".")[2] for override in overrides if override.is_sweep_override()]
    lines = [str(override.input_line) for override in overrides]
    jobs = [line for line in lines if not line.lstrip("+~").startswith(HOW_JOBS_RUN)]
    digest = hashlib.sha256("\n".join(jobs).encode()).hexdigest()[:8]
    return "-".join([*swept, digest])[-80:].lstrip("-")


def _changed(cfg: DictConfig, first: list[str], index: int, override: Override, single: str) -> DictConfig:
    """Return the config with one override changed, without composing it again if the override sets a plain root key."""
    key = override.get_key_element()
    node = OmegaConf.select(cfg, key) if key.isidentifier() else None
    if isinstance(node, (int, float)):
        value = OverridesParser.create().parse_override(single).value()
        changed = copy.deepcopy(cfg)
        try:
            OmegaConf.update(changed, key, value)
            return changed
        except Exception:
            pass  # composing it raises the message that a single run would get
    return compose([*first[:index], single, *first[index + 1 :]])


def _singles(override: Override, is_basic: bool | None = None) -> list[str]:
    """Return an override for each value; for ranges that only sweepers other than Hydra's expand, for their two ends.

    Args:
        override: An override as it is typed.
        is_basic: Whether Hydra's own sweeper expands it; None if that is not known yet.

    Raises:
        ValueError: If there is no value, or Hydra's own sweeper cannot expand it.
    """
    value = override.value()
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key = override.get_key_element()
    if isinstance(value, IntervalSweep):
        values = [str(value.start), str(value.end)]
        if is_basic:
            raise ValueError(
                f"{override.input_line}: Hydra's own sweeper needs a list, such as {key}={','.join(values)}; "
                "type hydra/sweeper=optuna for values in between"
            )
    elif isinstance(value, Glob):
        values = value.filter(list(choices(override.key_or_group)))
    elif isinstance(value, RangeSweep) and is_basic is False:
        values = [str(value.start), str(value.stop)]
    else:
        values = list(override.sweep_string_iterator())
    if not values:
        raise ValueError(f"{override.input_line}: there is no such value")
    return [f"{key}={value}" for value in values]


def _refuse_processes(cfg: DictConfig) -> None:
    """Reject a sweep whose jobs start this command again in other processes.

    Raises:
        ValueError: With the reason, and what works instead.
    """
    strategy = str(cfg.trainer.strategy)
    devices = cfg.trainer.devices
    is_distributed = devices not in (1, "1") or (cfg.trainer.get("num_nodes") or 1) > 1
    if strategy.startswith(("ddp", "fsdp", "deepspeed")) or is_distributed:
        raise ValueError(
            f"-m with trainer.strategy={strategy} trainer.devices={devices}: every process of such a run starts this "
            "command again, and would run the whole sweep.\n"
            "Run one process per job and several jobs at once, with -m hydra/launcher=joblib (or submitit_slurm), "
            "or start such runs one after the other, without -m"
        )
