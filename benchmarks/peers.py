"""Other packages, if they are installed, and straightforward forms of the same measures."""

import importlib.util
from collections.abc import Callable
from importlib import import_module
from types import ModuleType, SimpleNamespace

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from torch import Tensor


def debiased_cka(x: Tensor, y: Tensor) -> dict[str, Callable[[], object]]:
    """Return debiased linear CKA of the same samples by each installed package."""
    candidates: dict[str, Callable[[], object]] = {}
    if peer := installed("cka"):
        candidates["pytorch-cka"] = lambda: peer.cka_from_features(x, y)
    if torch_cka := installed("torch_cka"):
        hsic = torch_cka.CKA._HSIC

        def by_torch_cka() -> object:
            k, l = ((z @ z.T).fill_diagonal_(0) for z in (x, y))  # noqa: E741
            owner = SimpleNamespace(device="cpu")
            return hsic(owner, k, l) / (hsic(owner, k, k) * hsic(owner, l, l)) ** 0.5

        candidates["torch-cka"] = by_torch_cka
    if ckatorch := installed("ckatorch.core"):
        candidates["ckatorch"] = lambda: ckatorch.cka_base(x, y, unbiased=True)
    if cka_pytorch := _file("cka_pytorch", "hsic"):

        def by_cka_pytorch() -> object:
            k, l = (x @ x.T)[None], (y @ y.T)[None]  # noqa: E741
            return cka_pytorch.hsic1(k, l) / (cka_pytorch.hsic1(k, k) * cka_pytorch.hsic1(l, l)).sqrt()

        candidates["cka-pytorch"] = by_cka_pytorch
    return candidates


def rsa(x: np.ndarray, y: np.ndarray) -> float:
    """Return the Spearman correlation of correlation distances, written with numpy and scipy."""
    above = np.triu_indices(len(x), 1)
    ranks = [rankdata(1 - np.corrcoef(z)[above]) for z in (x, y)]
    return float(np.corrcoef(*ranks)[0, 1])


def distance_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return the definition, with both distance matrices centered in full."""

    def centered(z: np.ndarray) -> np.ndarray:
        d = cdist(z, z)
        return d - d.mean(0) - d.mean(1)[:, None] + d.mean()

    a, b = centered(x), centered(y)
    return float(np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())))


def installed(name: str) -> ModuleType | None:
    """Return a module, or None if it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None


def _file(package: str, name: str) -> ModuleType | None:
    """Return one module of a package whose __init__ would load a second copy of Lightning."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    module_spec = importlib.util.spec_from_file_location(name, f"{spec.submodule_search_locations[0]}/{name}.py")
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module
