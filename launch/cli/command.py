"""From the command line to Hydra: checks first, messages instead of tracebacks, exit codes."""

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from hydra._internal.utils import get_args_parser

from callbacks.signals import Stopped
from launch.cli.compose import check, searched
from launch.cli.help import page
from launch.cli.messages import report
from launch.cli.streams import make_unbreakable
from launch.cli.sweep import SweepTable
from launch.run.ranks import is_first

ROOT = Path(__file__).resolve().parents[2]
OURS = ("callbacks", "data", "dissimilarity", "launch", "models", "settings", "studies", "trusted")


def run(hydra_main: Callable[..., None], config_name: str) -> int:
    """Checks the command line, hands it to Hydra, and returns the exit code.

    Returns:
        0 when all is done; 2 for what the user can mend, with a message; 130 after Ctrl-C and 143 after SIGTERM, with
        everything saved, wherever the program is; 1 for anything else (with a traceback) and for a sweep in which a
        job failed.
    """
    make_unbreakable()
    sys.argv[1:] = flags_first(sys.argv[1:])
    args = get_args_parser().parse_args()
    # Hydra would print its own shortened traceback and exit
    os.environ["HYDRA_FULL_ERROR"] = "1"
    export_modules()
    try:
        check_modules()
        if args.help:
            print(page(searched(args), config_name), end="")
            return 0
        if not (args.cfg or args.hydra_help or args.info or args.shell_completion):
            check(args, config_name)
        hydra_main()
    except Exception as error:
        return report(error, args.overrides, config_name)[0]
    except Stopped as stop:
        # an interrupted step ends in `Interrupted`; side by side, the launcher has killed the jobs, which costs nothing
        if not is_first():
            return 0  # Lightning kills the first process too when one of the others fails
        print("\nstopped; the same command does what is left", file=sys.stderr)
        return 128 + stop.signum
    finally:
        if SweepTable.current:
            SweepTable.current.show()
    return 1 if SweepTable.failed else 0


def flags_first(arguments: list[str]) -> list[str]:
    """Moves `-m` to the front: Hydra's parser takes flags before or after the overrides, not among them."""
    flags = [a for a in arguments if a in ("-m", "--multirun")]
    return flags[:1] + [a for a in arguments if a not in ("-m", "--multirun")]


def check_modules(root: Path = ROOT) -> None:
    """Makes sure that our modules are the ones beside train.py.

    Raises:
        ValueError: another folder's module of the same name comes first on the path; names it.
    """
    for name in OURS:
        spec = find_spec(name)
        places = [spec.origin] if spec and spec.origin else list(spec.submodule_search_locations or []) if spec else []
        if not places or root not in Path(places[0]).resolve().parents:
            found = f"{places[0]} shadows it" if places else "it is not there"
            raise ValueError(
                f"expected the module {name} beside {root / 'train.py'}, but {found}: "
                "start from another folder, rename that one, or unset PYTHONPATH"
            )


def export_modules(root: Path = ROOT) -> None:
    """Let processes that a launcher starts elsewhere (submitit) import our modules, which no installation does."""
    paths = [str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in paths if path))
