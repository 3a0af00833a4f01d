"""What verdicts, p values and intervals claim, beside a known truth: tables from simulations.

1. Verdicts of the studies. Each draw simulates records and calls the study's own functions on them. `false positives`
   is the share of draws without an effect in which the verdict claims one; it may be 7% at a nominal 5%. `power` is
   the same share under a planted effect.
2. Coverage: how often 95% intervals over probe text hold the expectation of the estimator (92 to 97%), and the size
   of the standard error in units of the true one.
3. Plug-in and cross-fitted values of planted relations: the truth lies between the two, up to the error of the mean.
4. Probe sizes, paired errors, and p values of the null with calibrated values.

Each core runs a process. On two cores all of it takes half an hour.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch

import settings
from benchmarks import calibrated, paired_errors, probe_sizes
from benchmarks.coverage import Design, coverage
from benchmarks.timing import show
from benchmarks.truths import truths
from benchmarks.verdicts import VERDICTS
from benchmarks.verdicts.verdict import NOMINAL
from dissimilarity.measures.base.output_measure import OutputMeasure
from launch.cli.compose import compose

DESIGNS = [
    Design(sequences, length, width, kind)
    for sequences, length, width in ((32, 64, 64), (32, 16, 100), (128, 16, 32), (128, 8, 200))
    for kind in ("near", "half", "independent")
]


def measured(number: int, draws: int) -> dict[str, str]:
    """Return the rates of one verdict."""
    verdict = VERDICTS[number]
    return {
        "study": verdict.study,
        "verdict": verdict.name,
        "nominal": f"{NOMINAL:.1%}",
        "false positives": f"{verdict.rate(draws):.1%}",
        "effect": f"{verdict.effect:g}",
        "power": f"{verdict.rate(draws, verdict.effect):.1%}",
    }


def covered(design: Design, draws: int) -> list[dict[str, str]]:
    """Return the coverage of each measure of representations, in one design."""
    measures = [settings.instantiate(node) for node in compose(["measures=all"]).measures.values()]
    measures = [measure for measure in measures if not isinstance(measure, OutputMeasure)]
    return [
        {
            "measure": label,
            "sequences": str(design.sequences),
            "d / n": f"{design.ratio:.2f}",
            "models": design.kind,
            "nominal": "95.0%",
            "coverage": f"{share:.1%}",
            "stderr / sd": f"{size:.2f}",
        }
        for label, (share, size) in coverage(design, measures, draws).items()
    ]


def run(draws: int = 400) -> None:
    """Print the tables.

    Args:
        draws: simulations of each verdict; half as many of each null, and a quarter of each interval.
    """
    processes = ProcessPoolExecutor(
        mp_context=multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    with processes as pool:
        show(list(pool.map(partial(measured, draws=draws), range(len(VERDICTS)))))
        show([row for rows in pool.map(partial(covered, draws=draws // 4), DESIGNS) for row in rows])
        show(
            [
                row
                for rows in pool.map(
                    partial(calibrated.rows_of, draws=draws // 2), *zip(*calibrated.CASES, strict=True)
                )
                for row in rows
            ]
        )
    show(calibrated.rule(draws // 2))
    show(truths())
    for table in (probe_sizes, paired_errors):
        print(f"\n{(table.__doc__ or '').splitlines()[0]}")
        table.run()
