"""The null in simulations: p values of unrelated models, power for related ones, and the error of calibrated values.

Two models share positions, and text as far as they are related; the tokens of each sequence are correlated. For
unrelated ones, `p <= 0.05` and `p <= 0.1` should be as often as they say, and the mean of the calibrated value 0.
`error / spread` is the standard error of the calibrated value in units of its spread over fresh text.
"""

import numpy as np
import torch
from scipy import stats

from dissimilarity import CKA, MutualKNN, Procrustes, compare

SEQUENCES, LENGTH, WIDTH, NULLS = 32, 16, 12, 19
MEASURES = [CKA(), Procrustes(), MutualKNN(max_samples=512)]


def rows_of(related: float, masked: bool, draws: int) -> list[dict[str, str]]:
    """Return one row per measure."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    position, maps = normal(1, LENGTH, WIDTH), [normal(WIDTH, WIDTH) / WIDTH**0.5 for _ in range(4)]
    values: dict[str, list[tuple[float, float, float]]] = {measure.label: [] for measure in MEASURES}
    for _ in range(draws):
        text = normal(SEQUENCES, 1, WIDTH) + normal(SEQUENCES, LENGTH, WIDTH)
        x, y = (
            0.5 * normal(SEQUENCES, 1, WIDTH)
            + normal(SEQUENCES, LENGTH, WIDTH)
            + position @ maps[side]
            + related * text @ maps[2 + side]
            for side in range(2)
        )
        lengths = torch.randint(3, LENGTH + 1, (SEQUENCES, 1), generator=generator)
        mask = torch.arange(LENGTH) < lengths if masked else None
        for row in compare({"x": x}, {"y": y}, measures=MEASURES, nulls=NULLS, mask=mask).to_pylist():
            values[row["measure"]].append((row["p"], row["calibrated"], row["calibrated_stderr"]))
    rows = []
    for label, columns in values.items():
        p, calibrated, stderr = np.array(columns).T
        covered = np.abs(calibrated - calibrated.mean()) <= stats.t.ppf(0.975, 15) * stderr
        rows.append(
            {
                "null": f"{label}, {'unequal' if masked else 'equal'} lengths, related {related:g}",
                "p <= 0.05": f"{(p <= 0.05).mean():.1%}",
                "p <= 0.1": f"{(p <= 0.1).mean():.1%}",
                "calibrated": f"{calibrated.mean():.3f} ± {calibrated.std() / draws**0.5:.3f}",
                "error / spread": f"{np.sqrt((stderr**2).mean()) / calibrated.std():.2f}",
                "coverage": f"{covered.mean():.1%}",
            }
        )
    return rows


def table(draws: int) -> list[dict[str, str]]:
    """Return the rows of unrelated and related models, with sequences of equal and unequal length."""
    return [row for related in (0.0, 0.3) for masked in (False, True) for row in rows_of(related, masked, draws)]
