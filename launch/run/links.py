"""Entries of a folder through which a run or a study would write elsewhere, or wait forever."""

import os
from pathlib import Path


def refuse_links(folder: Path) -> None:
    """Check that what is written into a folder stays there; a downloaded one may hold links, pipes and devices.

    Args:
        folder: The folder of a run or of the results of a study.

    Raises:
        ValueError: If something in it links to a place outside, or is neither a file nor a folder.
    """
    home = folder.resolve()
    for parent, folders, files in os.walk(folder):
        if Path(parent) == folder / "wandb":
            folders.clear()  # W&B links its own logs from folders that no later session writes to
            continue
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and home not in path.resolve().parents:
                raise ValueError(
                    f"{path} is a link to {path.resolve()}, outside of {folder}, where it would be written to; "
                    "replace the link with the file itself, or choose another name with name=..."
                )
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise ValueError(f"{path} is a pipe or a device, from which reading may never end: delete it")
