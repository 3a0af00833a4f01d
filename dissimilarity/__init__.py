"""Compare neural networks from the inside: measures, capture, error bars and nulls, curves over training.

x (n, p) and y (n, q) hold the same n samples; widths may differ. Values are those of the literature (CKA is 1 for equal
representations, Procrustes 0); ``to_dissimilarity`` maps each so that 0 is identical and larger is more different.

The public interface is this module, ``dissimilarity.functional`` (every measure as a function),
``dissimilarity.lightning`` (callbacks for PyTorch Lightning) and ``dissimilarity.huggingface`` (a callback for the
Trainer of transformers). Names here are imported on first use, so that the command line answers without torch and
curves are read without matplotlib.

Examples:
    >>> import torch
    >>> from dissimilarity import CKA, compare
    >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> round(CKA()(x, 2 * x + 1).item(), 9)
    1.0
    >>> table = compare({"x": x}, {"y": x[:, :4]}, measures=[CKA()])
    >>> table.column_names[:5]
    ['measure', 'site_a', 'site_b', 'value', 'dissimilarity']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dissimilarity.capture.hooks import capture as capture
    from dissimilarity.comparison.compare import compare as compare
    from dissimilarity.comparison.compare_many import compare_many as compare_many
    from dissimilarity.comparison.intrinsic import intrinsic as intrinsic
    from dissimilarity.comparison.save import save_activations as save_activations
    from dissimilarity.figures.comparison import comparison_figure as comparison_figure
    from dissimilarity.figures.curves import curves_figure as curves_figure
    from dissimilarity.figures.heatmaps import heatmap_figure as heatmap_figure
    from dissimilarity.figures.models import models_figure as models_figure
    from dissimilarity.figures.run import draw_run as draw_run
    from dissimilarity.figures.text import text_figure as text_figure
    from dissimilarity.inference.changes import changes as changes
    from dissimilarity.inference.paired import difference as difference
    from dissimilarity.measures.angular_cka import AngularCKA as AngularCKA
    from dissimilarity.measures.base.moment_measure import MomentMeasure as MomentMeasure
    from dissimilarity.measures.base.output_measure import OutputMeasure as OutputMeasure
    from dissimilarity.measures.base.sample_measure import SampleMeasure as SampleMeasure
    from dissimilarity.measures.bures import Bures as Bures
    from dissimilarity.measures.cca import CCA as CCA
    from dissimilarity.measures.cka import CKA as CKA
    from dissimilarity.measures.disagreement import Disagreement as Disagreement
    from dissimilarity.measures.distance_correlation import DistanceCorrelation as DistanceCorrelation
    from dissimilarity.measures.gulp import GULP as GULP
    from dissimilarity.measures.jaccard_knn import JaccardKNN as JaccardKNN
    from dissimilarity.measures.jsd import JSD as JSD
    from dissimilarity.measures.kl import KL as KL
    from dissimilarity.measures.linear_regression import LinearRegression as LinearRegression
    from dissimilarity.measures.minibatch_cka import MinibatchCKA as MinibatchCKA
    from dissimilarity.measures.mutual_knn import MutualKNN as MutualKNN
    from dissimilarity.measures.permutation_procrustes import PermutationProcrustes as PermutationProcrustes
    from dissimilarity.measures.procrustes import Procrustes as Procrustes
    from dissimilarity.measures.pwcca import PWCCA as PWCCA
    from dissimilarity.measures.rbf_cka import RBFCKA as RBFCKA
    from dissimilarity.measures.rsa import RSA as RSA
    from dissimilarity.measures.svcca import SVCCA as SVCCA
    from dissimilarity.moments.pair import centered as centered
    from dissimilarity.probe.alignment import Tokenized as Tokenized
    from dissimilarity.probe.alignment import align as align
    from dissimilarity.probe.outliers import Control as Control
    from dissimilarity.probe.probe_set import ProbeSet as ProbeSet
    from dissimilarity.stitching.across_tokenizers import aligned_penalties as aligned_penalties
    from dissimilarity.stitching.direct import direct_penalties as direct_penalties
    from dissimilarity.stitching.stitch import Stitch as Stitch
    from dissimilarity.tables.curves import read_curves as read_curves
    from dissimilarity.tables.curves import select as select
    from dissimilarity.tables.influential_text import influential_text as influential_text
    from dissimilarity.tracking.tracker import Tracker as Tracker

# Import the subpackage `capture` now, so that no later import binds it over the function of the same name.
import_module("dissimilarity.capture")
del capture  # pyright: ignore[reportUnboundVariable]

_MODULES = {
    "AngularCKA": "dissimilarity.measures.angular_cka",
    "Bures": "dissimilarity.measures.bures",
    "CCA": "dissimilarity.measures.cca",
    "CKA": "dissimilarity.measures.cka",
    "Control": "dissimilarity.probe.outliers",
    "Disagreement": "dissimilarity.measures.disagreement",
    "DistanceCorrelation": "dissimilarity.measures.distance_correlation",
    "GULP": "dissimilarity.measures.gulp",
    "JSD": "dissimilarity.measures.jsd",
    "JaccardKNN": "dissimilarity.measures.jaccard_knn",
    "KL": "dissimilarity.measures.kl",
    "LinearRegression": "dissimilarity.measures.linear_regression",
    "MinibatchCKA": "dissimilarity.measures.minibatch_cka",
    "MomentMeasure": "dissimilarity.measures.base.moment_measure",
    "MutualKNN": "dissimilarity.measures.mutual_knn",
    "OutputMeasure": "dissimilarity.measures.base.output_measure",
    "PWCCA": "dissimilarity.measures.pwcca",
    "PermutationProcrustes": "dissimilarity.measures.permutation_procrustes",
    "ProbeSet": "dissimilarity.probe.probe_set",
    "Procrustes": "dissimilarity.measures.procrustes",
    "RBFCKA": "dissimilarity.measures.rbf_cka",
    "RSA": "dissimilarity.measures.rsa",
    "SVCCA": "dissimilarity.measures.svcca",
    "SampleMeasure": "dissimilarity.measures.base.sample_measure",
    "Stitch": "dissimilarity.stitching.stitch",
    "Tokenized": "dissimilarity.probe.alignment",
    "Tracker": "dissimilarity.tracking.tracker",
    "align": "dissimilarity.probe.alignment",
    "aligned_penalties": "dissimilarity.stitching.across_tokenizers",
    "capture": "dissimilarity.capture.hooks",
    "centered": "dissimilarity.moments.pair",
    "changes": "dissimilarity.inference.changes",
    "compare": "dissimilarity.comparison.compare",
    "compare_many": "dissimilarity.comparison.compare_many",
    "comparison_figure": "dissimilarity.figures.comparison",
    "curves_figure": "dissimilarity.figures.curves",
    "difference": "dissimilarity.inference.paired",
    "direct_penalties": "dissimilarity.stitching.direct",
    "draw_run": "dissimilarity.figures.run",
    "heatmap_figure": "dissimilarity.figures.heatmaps",
    "influential_text": "dissimilarity.tables.influential_text",
    "intrinsic": "dissimilarity.comparison.intrinsic",
    "models_figure": "dissimilarity.figures.models",
    "read_curves": "dissimilarity.tables.curves",
    "save_activations": "dissimilarity.comparison.save",
    "select": "dissimilarity.tables.curves",
    "text_figure": "dissimilarity.figures.text",
}

__all__ = [*_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dissimilarity")
    except PackageNotFoundError:  # in a clone that is not installed
        return "0+unknown"
