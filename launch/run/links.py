"""Links in the folder of a run, through which a run would write elsewhere."""

import os
from pathlib import Path


def refuse_links(folder: Path) -> None:
    """Make sure that what a run writes into its folder stays in it: a stranger's may hold links to one's own files.

    Raises:
        ValueError: something in the folder is a link out of it.
    """
    home = folder.resolve()
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and home not in path.resolve().parents:
                raise ValueError(
                    f"{path} is a link to {path.resolve()}, outside of the run's folder, where the run would write; "
                    "put the file itself there, or choose another name with name=..."
                )
