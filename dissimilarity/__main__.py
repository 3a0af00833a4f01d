"""Run the command: ``python -m dissimilarity``."""

import sys

from dissimilarity.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
