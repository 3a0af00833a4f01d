"""The way from the command line to Hydra: checks, messages instead of tracebacks, exit codes."""

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from hydra._internal.utils import get_args_parser

import settings
from callbacks import signals
from launch.cli.check import check
from launch.cli.compose import compose, searched
from launch.cli.help import page
from launch.cli.messages import USER_ERROR, report, unknown_flag
from launch.cli.streams import make_unbreakable
from launch.cli.sweep import SweepTable
from launch.run.ranks import is_first

ROOT = Path(__file__).resolve().parents[2]
MULTIRUN = ("-m", "--multirun")
OURS = ("callbacks", "data", "dissimilarity", "launch", "models", "settings", "studies", "trusted")


def run(hydra_main: Callable[..., None], config_name: str) -> int:
    """Check the command line, pass it to Hydra, and return the exit code.

    Returns:
        0 on success; 2, with a message, for what the user can correct; 130 after Ctrl-C and 143 after SIGTERM, with
        everything saved; 1, with a traceback, for anything else, and for a sweep in which a job failed.
    """
    make_unbreakable()
    sys.argv[1:] = flags_first(sys.argv[1:])
    args, unknown = get_args_parser().parse_known_args()
    if unknown:
        print(unknown_flag(unknown[0], sys.argv[1:]), file=sys.stderr)
        return USER_ERROR
    # Without it Hydra prints its own shortened traceback and exits.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    export_modules()
    try:
        check_modules()
        if args.help:
            print(page(searched(args), config_name), end="")
            return 0
        if args.cfg and args.resolve and config_name == "train":  # else the folders would be those of a run "None"
            name = [f"name={settings.run_name(compose(args.overrides))}"]
            sys.argv[1:] = with_overrides(sys.argv[1:], name, args.overrides)
        if not (args.cfg or args.hydra_help or args.info or args.shell_completion):
            sys.argv[1:] = with_overrides(sys.argv[1:], check(args, config_name), args.overrides)
        with signals.restored():
            hydra_main()
    except Exception as error:
        return report(error, args.overrides, config_name)[0]
    except signals.Stopped as stop:
        # An interrupted training raises `Interrupted` instead. Jobs side by side are killed by their launcher.
        if not is_first():
            return 0  # when another process fails, Lightning kills the first one, which may still be saving
        print(signals.ENDED.decode(), end="", file=sys.stderr)
        return 128 + stop.signum
    finally:
        if SweepTable.current:
            SweepTable.current.show()
    return 1 if SweepTable.failed else 0


def flags_first(arguments: list[str]) -> list[str]:
    """Move `-m` to the front, because Hydra's parser accepts flags before or after the overrides but not among them.

    Examples:
        >>> flags_first(["width=64", "-m", "seed=0,1"])
        ['-m', 'width=64', 'seed=0,1']
    """
    flags = [argument for argument in arguments if argument in MULTIRUN]
    return flags[:1] + [argument for argument in arguments if argument not in MULTIRUN]


def with_overrides(arguments: list[str], more: list[str], overrides: list[str]) -> list[str]:
    """Put overrides beside those of a command line, for the same reason.

    Examples:
        >>> with_overrides(["-m", "seed=0,1", "--config-dir", "x"], ["name=a"], ["seed=0,1"])
        ['-m', 'name=a', 'seed=0,1', '--config-dir', 'x']
    """
    place = arguments.index(overrides[0]) if overrides else len(arguments)
    return [*arguments[:place], *more, *arguments[place:]]


def check_modules(root: Path = ROOT) -> None:
    """Check that our modules are those beside train.py.

    Raises:
        ValueError: If a module of the same name in another folder comes first on the path; names it.
    """
    for name in OURS:
        spec = find_spec(name)
        places = [spec.origin] if spec and spec.origin else list(spec.submodule_search_locations or []) if spec else []
        if not places or root not in Path(places[0]).resolve().parents:
            problem = f"{places[0]} shadows it" if places else "it is missing"
            raise ValueError(
                f"expected the module {name} beside {root / 'train.py'}, but {problem}: "
                "start from another folder, rename that module, or unset PYTHONPATH"
            )


def export_modules(root: Path = ROOT) -> None:
    """Let processes that a launcher starts elsewhere (submitit) import our modules, which no installation does."""
    paths = [str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
