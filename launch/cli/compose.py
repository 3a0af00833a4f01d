"""Configs composed outside of Hydra's main."""

import argparse
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

import settings

CONF = Path(__file__).resolve().parents[2] / "conf"


def compose(overrides: list[str], config_name: str = "train", with_hydra: bool = False) -> DictConfig:
    """Return the config of `python train.py OVERRIDES`, or of analyze.py with `config_name="analyze"`.

    Args:
        overrides: The overrides of the command line.
        config_name: The primary config.
        with_hydra: Whether to include Hydra's own config under the key `hydra`.

    Raises:
        hydra.errors.HydraException: If the overrides do not compose.

    Examples:
        >>> compose(["model=gelu", "width=256"]).model.family
        'gelu'
    """
    settings.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return hydra_compose(config_name, overrides, return_hydra_config=with_hydra)


def groups(config_name: str = "train") -> list[str]:
    """Return the config groups of a command.

    Examples:
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
