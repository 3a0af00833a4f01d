"""Run the command: ``python -m dissimilarity``."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        # `python -m` looks for modules in the current folder first, where a file may be called torch.py.
        del sys.path[0]

    from dissimilarity.cli.command import main

    sys.exit(main())
