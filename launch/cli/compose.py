"""Configs composed outside of Hydra's main, and checks of a command before anything heavy is imported."""

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

import settings
from launch.cli.validate import validate

CONF = Path(__file__).resolve().parents[2] / "conf"


def compose(overrides: list[str], config_name: str = "train") -> DictConfig:
    """Return the config of `python train.py OVERRIDES`, or of analyze.py with `config_name="analyze"`.

    Raises:
        hydra.errors.HydraException: If the overrides do not compose.

    Example:
        >>> compose(["model=gelu", "width=256"]).model.family
        'gelu'
    """
    settings.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return hydra_compose(config_name, overrides)


def groups(config_name: str = "train") -> list[str]:
    """Return the config groups of a command.

    Example:
        >>> groups("analyze")
        ['study', 'data', 'measures']
    """
    defaults = OmegaConf.load(CONF / f"{config_name}.yaml").defaults
    return [str(key) for entry in defaults if OmegaConf.is_dict(entry) for key in entry if key != "hydra"]


def searched(args: argparse.Namespace) -> list[Path]:
    """Return the folders of YAML files that a command names: `--config-dir` and `hydra.searchpath=[file://...]`."""
    folders = [args.config_dir] if args.config_dir else []
    for override in args.overrides:
        if override.startswith("hydra.searchpath="):
            value = OverridesParser.create().parse_override(override).value()
            folders += [str(path) for path in value] if isinstance(value, list) else []
    return [Path(folder.removeprefix("file://")).resolve() for folder in folders]


def check(args: argparse.Namespace, config_name: str = "train") -> None:
    """Compose and validate what a command line asks for; in a sweep, every value of every key.

    Each key is varied alone, with the other keys at their first value, so that a sweep of many jobs is checked in a
    moment. A combination of later values that cannot train fails as its own job.

    Args:
        args: The command line as parsed by Hydra.
        config_name: The primary config.

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
        if (CONF / override.key_or_group).is_dir() and override.value() is None and not override.is_delete():
            _refuse_null(override.key_or_group)
    if not args.multirun:
        validate(compose(overrides, config_name), config_name)
        return
    first = [_first(override) for override in parsed]
    cfg = compose(first, config_name)
    _refuse_processes(cfg)
    validate(cfg, config_name)
    for index, override in enumerate(parsed):
        for value in list(_values(override))[1:]:
            single = f"{override.get_key_element()}={value}"
            validate(_changed(cfg, first, index, override, single, config_name), config_name)


def _refuse_null(group: str) -> None:
    """Raise ValueError for `group=null`, which Hydra does not accept."""
    choices = sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem != "base")
    raise ValueError(f"{group}=null: expected one of {', '.join(choices)}; leave {group}= out for the default")


def _changed(
    cfg: DictConfig, first: list[str], index: int, override: Override, single: str, config_name: str
) -> DictConfig:
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
    return compose([*first[:index], single, *first[index + 1 :]], config_name)


def _values(override: Override) -> Iterator[Any]:
    if override.is_sweep_override():
        yield from override.sweep_string_iterator()
    else:
        yield override.get_value_element_as_str()


def _first(override: Override) -> str:
    if not override.is_sweep_override():
        assert override.input_line is not None
        return override.input_line
    return f"{override.get_key_element()}={next(iter(_values(override)))}"


def _refuse_processes(cfg: DictConfig) -> None:
    """Refuse a sweep whose jobs start this command again in other processes.

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
