"""Run benchmarks by name: `python -m benchmarks train_loop tracker`."""

import argparse
import pkgutil
from importlib import import_module
from inspect import signature

import benchmarks
from benchmarks.timing import machine
from launch.machine import keep_freed_memory

NOT_BENCHMARKS = ("__main__", "apart", "nets", "peers", "timing", "verdicts")


def main() -> None:
    """Run the named benchmarks, each a module of this package with a `run()` that prints its table."""
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name not in NOT_BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("names", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--kills", type=int, default=100, help="runs that `kills` kills")
    parser.add_argument("--faults", type=int, default=20, help="runs in one tick of which `kills` has something fail")
    keep_freed_memory()  # as the commands do
    print(machine())
    options = parser.parse_args()
    for name in options.names:
        benchmark = import_module(f"benchmarks.{name}")
        print(f"\n{name}: {(benchmark.__doc__ or '').splitlines()[0]}")
        benchmark.run(**{option: getattr(options, option) for option in signature(benchmark.run).parameters})


if __name__ == "__main__":
    main()
