"""Models of different width that see one representation through random projections, or one that turns with width."""

from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.verdicts.verdict import Verdict
from studies.common.regions import contiguous_blocks, explained
from studies.scaling.numbers import Findings, findings, of_walks
from studies.scaling.sizes import SizedModel

WIDTHS, SEEDS, SAMPLES, FEATURES, LAYERS = (8, 16, 32, 64), 5, 64, 96, 8
MODELS = [SizedModel(f"w{width}s{seed}", "gelu", width, 1, None, 4.0, 0.1) for width in WIDTHS for seed in range(SEEDS)]
SITE = {"site_a": "blocks.0.resid_post", "site_b": "blocks.0.resid_post"}


def directions(features: np.ndarray) -> np.ndarray:
    """Return the debiased Gram matrices of (models, samples, features) as unit vectors: their products are CKA."""
    gram = features @ features.swapaxes(1, 2)
    count = gram.shape[1]
    gram[:, np.arange(count), np.arange(count)] = 0
    sums = gram.sum(1)
    centered = gram - (sums[:, :, None] + sums[:, None]) / (count - 2)
    centered += sums.sum(1)[:, None, None] / ((count - 1) * (count - 2))
    centered[:, np.arange(count), np.arange(count)] = 0
    flat = centered.reshape(len(gram), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def compared(rng: np.random.Generator, effect: float) -> Findings:
    """Return the study's numbers for models of every width; the effect is an angle per doubling of the width."""
    spectrum = np.arange(1, FEATURES + 1) ** -0.5
    common, other = rng.standard_normal((2, SAMPLES, FEATURES)) * spectrum
    gram = []
    for model in MODELS:
        angle = effect * np.log2(model.width / WIDTHS[0])
        turned = np.cos(angle) * common + np.sin(angle) * other
        gram.append(directions((turned @ rng.standard_normal((FEATURES, model.width)))[None])[0])
    cka = np.array(gram) @ np.array(gram).T
    rows: list[dict[str, Any]] = [
        {"control": "none", "measure": "cka", "model_a": MODELS[a].label, "model_b": MODELS[b].label, **SITE}
        | {"dissimilarity": 1 - cka[a, b], "calibrated": cka[a, b]}
        for a, b in combinations_with_replacement(range(len(MODELS)), 2)
    ]
    return findings(pa.Table.from_pylist(rows), MODELS, "cka")


def _grows(rng: np.random.Generator, effect: float) -> bool:
    return compared(rng, effect).growth["none", "cka", "dissimilarity", "width"].verdict != "open"


def _differs(rng: np.random.Generator, effect: float) -> bool:
    return bool(compared(rng, effect).above)


def _blocks(rng: np.random.Generator, effect: float) -> bool:
    """Draw a walk of layers whose third and sixth step are larger by the effect, and cut it."""
    lengths = np.sqrt(rng.exponential(size=LAYERS))
    lengths[[LAYERS // 3, 2 * LAYERS // 3]] += effect
    steps = rng.standard_normal((LAYERS, SAMPLES, FEATURES)) * lengths[:, None, None]
    gram = directions(np.cumsum(steps, 0))
    similarity = gram @ gram.T
    share = explained(similarity, contiguous_blocks(similarity, 3))
    return share > of_walks(LAYERS)[1]


VERDICTS = (
    Verdict("scaling", "growth with the ratio of widths", _grows, 0.15),
    Verdict("scaling", "sizes differ more than seeds", _differs, 0.15),
    Verdict("scaling", "three blocks of layers", _blocks, 8.0),
)
