"""The LightningModule of a run, built from its config."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

import settings
from launch.run.folder import without_missing

if TYPE_CHECKING:
    from models.recipe_module import RecipeModule


def build_module(cfg: DictConfig, data: Any) -> "RecipeModule":
    """Build the module that a run trains on `data`, a LightningDataModule after setup().

    Raises:
        ValueError: If it cannot be built, or lacks a site that a callback of the config asks for.
    """
    from dissimilarity.capture.sites import resolve

    task = settings.instantiate(cfg.task)
    module = task(data, net=without_missing(cfg.model), optim=without_missing(cfg.optim), init_seed=cfg.init_seed)
    for node in (cfg.callbacks or {}).values():
        if (sites := node.get("sites")) is not None:
            resolve(module, sites if isinstance(sites, str) else list(sites), cfg.probe.length)
    return module
