"""Runs benchmarks by name: `python -m benchmarks train_loop tracker`."""

import argparse
import pkgutil
from importlib import import_module

import benchmarks
from benchmarks.timing import machine
from launch.memory import keep_freed_memory

NOT_BENCHMARKS = ("__main__", "apart", "nets", "peers", "timing")


def main() -> None:
    """Runs the named benchmarks, each a module of this package with a `run()` that prints its table."""
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name not in NOT_BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("names", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    keep_freed_memory()  # as the commands do
    print(machine())
    for name in parser.parse_args().names:
        print(f"\n{name}: {(import_module(f'benchmarks.{name}').__doc__ or '').splitlines()[0]}")
        import_module(f"benchmarks.{name}").run()


if __name__ == "__main__":
    main()
