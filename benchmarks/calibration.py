"""What verdicts and p values claim where there is nothing to see, and where one is planted; errors and their truth.

Each draw simulates records with a known truth and calls the study's own functions on them. `false positives` is the
share of draws without an effect in which the verdict claims one; it may be 7 % at a nominal 5 %. `power` is the same
share under the planted effect. The tables of `probe_sizes` and `paired_errors` follow.

A second table has plug-in and cross-fitted values of planted relations: the truth lies between the two, up to the error
of the mean, and 95 % intervals should hold the mean 92 to 97 % of the time.
"""

from benchmarks import calibrated, paired_errors, probe_sizes
from benchmarks.timing import show
from benchmarks.truths import truths
from benchmarks.verdicts import VERDICTS
from benchmarks.verdicts.verdict import NOMINAL, Verdict

DRAWS = 400


def measured(verdict: Verdict) -> dict[str, str]:
    """Return the rates of one verdict."""
    return {
        "study": verdict.study,
        "verdict": verdict.name,
        "nominal": f"{NOMINAL:.1%}",
        "false positives": f"{verdict.rate(DRAWS):.1%}",
        "effect": f"{verdict.effect:g}",
        "power": f"{verdict.rate(DRAWS, verdict.effect):.1%}",
    }


def run() -> None:
    """Print the tables."""
    show([measured(verdict) for verdict in VERDICTS])
    show(truths())
    for table in (probe_sizes, paired_errors):
        print(f"\n{(table.__doc__ or '').splitlines()[0]}")
        table.run()
    show(calibrated.table(DRAWS // 2))
