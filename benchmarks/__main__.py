"""Run benchmarks by name: `python -m benchmarks train_loop tracker`, or `all` of those that measure time and memory."""

import argparse
import pkgutil
from collections.abc import Mapping
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path

import benchmarks
from benchmarks import record, timing
from launch.machine import check_device, keep_freed_memory

NOT_BENCHMARKS = ("__main__", "apart", "coverage", "nets", "peers", "record", "timing", "truths", "verdicts")

SIMULATIONS = ("calibrated", "calibration", "kills", "paired_errors", "probe_sizes")
"""Benchmarks that measure neither time nor memory, and take long."""

OPTIONS = {
    "draws": "simulations that `calibration` and `calibrated` draw",
    "kills": "runs that `kills` kills",
    "faults": "runs in one tick of which `kills` has something fail",
}


def names() -> list[str]:
    """Return the names of the benchmarks."""
    return [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name not in NOT_BENCHMARKS]


def parameters(name: str) -> Mapping[str, Parameter]:
    """Return the parameters of the benchmark of that name, each an option of the command line."""
    return signature(import_module(f"benchmarks.{name}").run).parameters


def main() -> None:
    """Run the named benchmarks, each a module of this package with a `run()` that prints its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument(
        "names", nargs="+", choices=["all", *names()], metavar="NAME", help=f"all, {', '.join(names())}"
    )
    for option, what in OPTIONS.items():
        parser.add_argument(f"--{option}", type=int, help=what)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where models and activations are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all tables to a file")
    parser.add_argument("--against", type=Path, metavar="FILE", help="show what changed since such a file")
    options = vars(parser.parse_args())
    chosen = [name for name in names() if name not in SIMULATIONS] if "all" in options["names"] else options["names"]
    on_cpu = [name for name in chosen if "device" not in parameters(name)] if options["device"] != "cpu" else []
    if on_cpu:
        parser.error(f"--device {options['device']}: these run on the processor only: {', '.join(on_cpu)}")
    try:
        check_device("--device", options["device"])
        then, before = record.read(options["against"]) if options["against"] else ("", {})
    except ValueError as error:
        parser.error(str(error))
    keep_freed_memory()  # as the commands do
    print(machine := timing.machine(options["device"]))
    tables: dict[str, record.Tables] = {}
    for name in chosen:
        benchmark = import_module(f"benchmarks.{name}")
        print(f"\n{name}: {(benchmark.__doc__ or '').splitlines()[0]}")
        timing.SHOWN.clear()
        benchmark.run(**{option: options[option] for option in parameters(name) if options[option] is not None})
        tables[name] = list(timing.SHOWN)
        if options["json"]:
            record.write(options["json"], machine, tables)
    if options["against"]:
        print(f"\nagainst {options['against']}, measured on {then}:")
        timing.show(record.changes(before, tables) or [{"": f"nothing changed by more than {record.CHANGE:.0%}"}])


if __name__ == "__main__":
    main()
