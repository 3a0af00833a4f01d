"""Links in the folder of a run, through which the run would write elsewhere."""

import os
from pathlib import Path


def refuse_links(folder: Path) -> None:
    """Check that what a run writes into its folder stays there; a downloaded folder may hold links to other files.

    Raises:
        ValueError: If something in the folder links to a place outside of it.
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
                    f"{path} is a link to {path.resolve()}, outside of the run folder, and the run would write there; "
                    "replace the link with the file itself, or choose another name with name=..."
                )
