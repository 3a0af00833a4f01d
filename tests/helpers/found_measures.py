"""The measures found in dissimilarity/measures and the settings of conf/measure, with data to try them on."""

import inspect
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from dissimilarity import functional
from dissimilarity.measures.base.output_measure import OutputMeasure
from dissimilarity.measures.catalog import measure_classes
from settings import instantiate

_classes = cache(measure_classes)
CONF = Path(__file__).parents[2] / "conf" / "measure"
SETTINGS = sorted(path.stem for path in CONF.glob("*.yaml"))


@cache
def _config(setting: str) -> dict[str, Any]:
    config: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{setting}.yaml"))
    return config


@cache
def _class(setting: str) -> type:
    """Return what Hydra makes of a setting, which takes ten times as long as to make it again."""
    return type(instantiate(_config(setting)))


def config_of(setting: str) -> dict[str, Any]:
    return deepcopy(_config(setting))


def make(setting: str, **options: Any) -> Any:
    config = config_of(setting)
    del config["_target_"]
    return _class(setting)(**config | options)


def function_of(setting: str, sequence: Tensor | None = None, unit: Tensor | None = None) -> Callable[..., Tensor]:
    """Return the function beside the class, with the options of the setting that it takes.

    Args:
        setting: the setting.
        sequence: the sequence of each sample, if known, for measures that have sequences as units.
        unit: the jackknife unit of each sample, for measures that are cross-fitted.
    """
    function = getattr(functional, _classes()[_class(setting)])
    parameters = inspect.signature(function).parameters.keys() - {"units"}
    options = {key: value for key, value in config_of(setting).items() if key in parameters}
    if sequence is not None and (make(setting).by_sequence or not config_of(setting).get("own_sequence", True)):
        options["units"] = sequence
    if unit is not None and make(setting).crossfit:
        options["units"] = unit
    return lambda x, y: function(x, y, **options)


OUTPUT_SETTINGS = [setting for setting in SETTINGS if isinstance(make(setting), OutputMeasure)]
REPRESENTATION_SETTINGS = [setting for setting in SETTINGS if setting not in OUTPUT_SETTINGS]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def related(n: int = 60, p: int = 7, q: int = 5, seed: int = 0, noise: float = 0.7) -> tuple[Tensor, Tensor]:
    """Return two noisy views (n, p) and (n, q) of one latent signal, in float64 and off the origin."""
    g = generator(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    latent = draw(n, 4)
    return (
        latent @ draw(4, p) + noise * draw(n, p) + draw(p),
        latent @ draw(4, q) + noise * draw(n, q) + draw(q),
    )


def fit(setting: str, p: int, q: int) -> tuple[int, int]:
    """Return the nearest widths that a measure accepts: outputs have the same classes on both sides."""
    minimum = make(setting).minimum_width
    p, q = max(p, minimum), max(q, minimum)
    return (p, p) if setting in OUTPUT_SETTINGS else (p, q)


def enough(setting: str, n: int) -> int:
    """Return a number of samples whose halves determine a map wherever n samples do."""
    return 4 * n if make(setting).crossfit else n


def views(
    setting: str, n: int = 60, p: int = 7, q: int = 5, seed: int = 0, noise: float = 0.7
) -> tuple[Tensor, Tensor]:
    """Return ``related`` data of widths that fit the measure."""
    return related(n, *fit(setting, p, q), seed, noise)


def updated(measure: Any, x: Tensor, y: Tensor, *cuts: int) -> Any:
    """Return the measure after updates with batches that end at the cuts."""
    for a, b in zip(x.tensor_split(cuts), y.tensor_split(cuts), strict=True):
        measure.update(a, b)
    return measure


each_setting = pytest.mark.parametrize("setting", SETTINGS)
each_representation = pytest.mark.parametrize("setting", REPRESENTATION_SETTINGS)
each_output = pytest.mark.parametrize("setting", OUTPUT_SETTINGS)
