"""Which training the files in a folder belong to, so that none mistakes the past of another one for its own."""

import logging
import secrets
from collections.abc import Iterable
from pathlib import Path

import torch

from dissimilarity.tables.seal import read_tensors, write_tensors

log = logging.getLogger(__name__)


class Owner:
    """A random number that is drawn when a training starts and stored in its checkpoints and beside its files.

    A checkpoint may be continued in a folder in which another training was tracked, or come from a training that was
    not tracked at all: then the two differ.

    Args:
        path: file of the number.

    Attributes:
        number: number of the training; None before it starts, or where its checkpoint has none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number: int | None = None

    def begin(self, files: Iterable[Path]) -> None:
        """Draw the number of a new training, which takes the folder over, and delete the files of another one."""
        self.number = secrets.randbits(62)
        for file in (self.path, *files):
            file.unlink(missing_ok=True)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors({"number": torch.tensor(self.number)}, self.path)
        except Exception as error:
            log.warning("could not write %s (%s); without it, a continuation trusts its folder", self.path, error)

    def delete(self, files: Iterable[Path]) -> None:
        """Delete files of this training; those of another one stay."""
        try:
            self.check()
        except ValueError:
            return
        for file in files:
            file.unlink(missing_ok=True)

    def check(self) -> None:
        """Check that the files belong to this training; pass if their number was deleted.

        Raises:
            ValueError: they belong to another one.
        """
        if self.path.exists() and read_tensors(self.path)["number"].item() != self.number:
            raise ValueError(
                f"the checkpoint is not of the training whose earlier states are in {self.path.parent}; "
                "use a separate folder for each training"
            )
