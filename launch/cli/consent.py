"""The classes that a command names itself, which the files it reads may then name too, whatever their package."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from launch.cli.compose import CONF


def named(cfg: DictConfig) -> frozenset[str]:
    """Return every `_target_` of the command's config and of the YAML files in the user's folders on its search path.

    A run of a user's own family can therefore be read by a command that names the folder of its YAML file:
    `hydra.searchpath=[file://mine]`.
    """
    composed = set(_targets(OmegaConf.to_container(cfg, resolve=False)))
    return frozenset(composed.union(*(_targets_in(path) for folder in _folders() for path in _yamls(folder))))


def _folders() -> list[Path]:
    """Return the folders of `hydra.searchpath` and `--config-dir`."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    return [folder for folder in folders if folder.resolve() != CONF]


def _yamls(folder: Path) -> Iterator[Path]:
    """Yield the YAML files of the groups of conf/; a folder on the search path may hold other files too."""
    for group in sorted(path.name for path in CONF.iterdir() if path.is_dir()):
        yield from sorted((folder / group).rglob("*.yaml"))


def _targets_in(path: Path) -> Iterator[str]:
    try:
        yield from _targets(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    except yaml.YAMLError:
        return  # Hydra reports it if the command chooses that file


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (str(value) for key, value in node.items() if key == "_target_")
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _targets(value)
