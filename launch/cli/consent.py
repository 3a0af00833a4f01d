"""The classes that a command names itself: what files that it reads may name too, whatever package they are of."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from launch.cli.compose import CONF


def named(cfg: DictConfig) -> frozenset[str]:
    """Every `_target_` of the command's config, and of the YAMLs in the user's own folders on its search path.

    A run of one's own family is thus read again by a command that names the folder of its YAML:
    `hydra.searchpath=[file://mine]`.
    """
    composed = set(_targets(OmegaConf.to_container(cfg, resolve=False)))
    return frozenset(composed.union(*(_targets_in(path) for folder in _folders() for path in _yamls(folder))))


def _folders() -> list[Path]:
    """Those of `hydra.searchpath` and `--config-dir`."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    return [folder for folder in folders if folder.resolve() != CONF]


def _yamls(folder: Path) -> Iterator[Path]:
    """The YAMLs of the groups that conf/ has: a folder on the search path may hold anything else besides."""
    for group in sorted(path.name for path in CONF.iterdir() if path.is_dir()):
        yield from sorted((folder / group).rglob("*.yaml"))


def _targets_in(path: Path) -> Iterator[str]:
    try:
        yield from _targets(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    except yaml.YAMLError:
        return  # Hydra says so, where the command chooses that file


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (str(value) for key, value in node.items() if key == "_target_")
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _targets(value)
