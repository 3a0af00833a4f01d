"""Run benchmarks by name: `python -m benchmarks train_loop tracker`."""

import argparse
import pkgutil
from importlib import import_module
from inspect import signature

import benchmarks
from benchmarks.timing import machine
from launch.machine import keep_freed_memory

NOT_BENCHMARKS = ("__main__", "apart", "coverage", "nets", "peers", "timing", "truths", "verdicts")

OPTIONS = {
    "draws": "simulations that `calibration` and `calibrated` draw",
    "kills": "runs that `kills` kills",
    "faults": "runs in one tick of which `kills` has something fail",
}


def names() -> list[str]:
    """Return the names of the benchmarks."""
    return [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name not in NOT_BENCHMARKS]


def main() -> None:
    """Run the named benchmarks, each a module of this package with a `run()` that prints its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("names", nargs="+", choices=names(), metavar="NAME", help=", ".join(names()))
    for option, what in OPTIONS.items():
        parser.add_argument(f"--{option}", type=int, help=what)
    keep_freed_memory()  # as the commands do
    print(machine())
    options = vars(parser.parse_args())
    for name in options["names"]:
        benchmark = import_module(f"benchmarks.{name}")
        print(f"\n{name}: {(benchmark.__doc__ or '').splitlines()[0]}")
        accepted = signature(benchmark.run).parameters
        benchmark.run(**{option: options[option] for option in accepted if options[option] is not None})


if __name__ == "__main__":
    main()
