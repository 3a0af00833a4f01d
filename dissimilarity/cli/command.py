"""The arguments of the command ``dissimilarity``, and its exit codes.

Nothing heavy is imported here, so ``--help`` answers at once.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

ALIKE, MISTAKE, DIFFERENT, INTERRUPTED = 0, 2, 3, 130
"""Exit codes; ``DIFFERENT`` only with ``--fail-over``."""
SEQUENCES, LENGTH = 128, 64
"""How much of a text is read."""
LEAST = 4
"""Sequences that a measure with an error bar needs."""
NO_MEASURES = ("base", "catalog", "intrinsic", "numerics", "titles")
OUTPUT_MEASURES = ("disagreement", "jsd", "kl")
"""Measures of what models predict, which files of activations have at one site alone."""
EXAMPLES = """examples:
  dissimilarity compare hf:FOLDER_A hf:FOLDER_B --text notes.txt
  dissimilarity compare hf:model hf:model-Q4_K_M.gguf --out results
  dissimilarity compare a.safetensors b.safetensors --measures cka --format csv
  dissimilarity compare hf:before hf:after --fail-over cka=0.05    # exit code 3 if they differ by more
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code.

    Args:
        arguments: what was typed after ``dissimilarity``; None for the arguments of the process.

    Returns:
        0; with ``--fail-over`` 3 if a dissimilarity is larger; 2 for a mistake, which standard error explains.

    Examples:
        >>> main(["compare", "nowhere.npy", "nowhere.npy"])
        2
    """
    options = parser().parse_args(arguments)
    try:
        if options.command == "report":
            from dissimilarity.cli.pages import run_report

            run_report(options)
            return ALIKE
        if options.command in ("list", "watch"):
            from dissimilarity.cli.runs import run_list, run_watch

            run_list(options) if options.command == "list" else run_watch(options)
            return ALIKE
        return _compare(options)
    except ValueError as error:
        from dissimilarity.cli.messages import in_shell_words

        problem = in_shell_words(str(error))
    except OSError as error:
        problem = f"{error.filename or 'output'}: {error.strerror}"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        problem = "there is not enough memory; type --block-by-block, or a smaller number of --sequences"
    except KeyboardInterrupt:
        return INTERRUPTED
    print(f"dissimilarity: {problem}", file=sys.stderr)
    return MISTAKE


def _compare(options: argparse.Namespace) -> int:
    """Compare two models: what names and files tell is checked before torch is loaded."""
    from dissimilarity.cli.early import checked_places, claimed
    from dissimilarity.cli.quiet import quiet

    with quiet(options.verbose), claimed(options.out):
        places = checked_places(options)
        from dissimilarity.cli.comparison import run_compare

        return DIFFERENT if run_compare(options, places) else ALIKE


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    command = argparse.ArgumentParser(
        prog="dissimilarity", description="Compare language models from the inside.", allow_abbrev=False
    )
    command.add_argument("--version", action="version", version=f"%(prog)s {version('dissimilarity')}")
    commands = command.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_report(commands)
    _add_runs(commands)
    compare = commands.add_parser(
        "compare",
        help="say how different two models are, at which layers, and on which text",
        description="Say how different two models are, at which layers, and on which text, with error bars.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    models = "hf:FOLDER, hf:ORG/MODEL@REVISION, a .gguf file, the folder of a peft adapter, runs/NAME in a clone, or "
    compare.add_argument("a", metavar="A", help=f"{models}saved activations (.safetensors, .npy, a folder of .npy)")
    compare.add_argument("b", metavar="B", help="the other model, in any of these forms")
    text = compare.add_mutually_exclusive_group()
    text.add_argument("--text", type=Path, metavar="FILE", help="text to compare on; default: Python's own manual")
    text.add_argument("--tokens", type=Path, metavar="FILE.npy", help="tokens (sequences, positions) for both models")
    compare.add_argument("--sequences", type=_at_least_four, help=f"sequences of the text (default: {SEQUENCES})")
    compare.add_argument("--length", type=_positive, help=f"tokens per sequence (default: {LENGTH})")
    compare.add_argument("--sites", type=_list, metavar="GLOB,...", help="default: blocks.*.resid_post")
    compare.add_argument(
        "--measures",
        type=_list,
        default=["cka", "procrustes", "mutual_knn"],
        metavar="NAME,...",
        help="default: cka,procrustes,mutual_knn; the first one decides the verdict; "
        f"choose from {', '.join(measure_names())}",
    )
    compare.add_argument(
        "--pairs", choices=("all", "matched"), help="pairs of layers to compare; default: all with --out, else matched"
    )
    compare.add_argument(
        "--block-by-block",
        action="store_true",
        help="for models larger than memory: read the weights of one block at a time, and compare matched layers",
    )
    compare.add_argument(
        "--nulls", type=_positive, default=1, metavar="K", help="rearrangements of the null; 2 or more give p values"
    )
    compare.add_argument("--influence", action="store_true", help="find the text that makes the models differ")
    compare.add_argument("--out", type=Path, metavar="FOLDER", help="write table, figures and provenance there")
    compare.add_argument("--format", choices=("table", "json", "csv", "latex"), default="table", help="output format")
    compare.add_argument(
        "--fail-over",
        type=_limit,
        action="append",
        default=[],
        metavar="MEASURE=VALUE",
        help="exit with 3 if the dissimilarity at any matched layer is larger; may be repeated",
    )
    compare.add_argument("--device", default="cpu", help="where models run, such as cuda (default: cpu)")
    compare.add_argument("--verbose", action="store_true", help="show messages of the libraries that load models")
    return command


def _add_report(commands: Any) -> None:
    """Add the command that writes a page."""
    report = commands.add_parser(
        "report",
        help="write a page that shows runs, studies or comparisons in a browser",
        description="Write one file that shows runs, or the results of studies or comparisons, in any browser.",
        allow_abbrev=False,
    )
    report.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="a run, results, or a folder with runs in it"
    )
    report.add_argument("--out", type=Path, metavar="FILE", help="default: report.html in the folder that holds them")


def _add_runs(commands: Any) -> None:
    """Add the commands that say which runs there are, and how one goes on."""
    listing = commands.add_parser(
        "list", help="list runs: state, loss, and how far each ended from its references", allow_abbrev=False
    )
    default = [Path("runs")]
    listing.add_argument("folders", nargs="*", type=Path, default=default, metavar="FOLDER", help="default: runs")
    watch = commands.add_parser("watch", help="show a run while it trains, until it ends", allow_abbrev=False)
    watch.add_argument("folder", type=Path, metavar="FOLDER", help="a run")


def measure_names() -> list[str]:
    """Return the names of all measures, without importing them."""
    places = find_spec("dissimilarity.measures")
    assert places is not None
    names = (module.name for module in iter_modules(places.submodule_search_locations))
    return sorted(name for name in names if name not in NO_MEASURES)


def _positive(text: str, least: int = 1) -> int:
    number = int(text) if text.strip().lstrip("+-").isdecimal() else least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected a whole number, {least} or more, found {text}")
    return number


def _at_least_four(text: str) -> int:
    return _positive(text, LEAST)


def _list(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise argparse.ArgumentTypeError("expected one or more names, found none")
    return names


def _limit(text: str) -> tuple[str, float]:
    name, is_given, value = text.partition("=")
    try:
        limit = float(value)
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        found = text if is_given else f"{text} without ="
        raise argparse.ArgumentTypeError(f"expected MEASURE=VALUE such as cka=0.05, found {found}")
    return name, limit
