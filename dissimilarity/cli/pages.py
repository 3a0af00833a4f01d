"""Run ``dissimilarity report``: write the page of folders."""

import argparse
from pathlib import Path

from dissimilarity.report.folders import found_in
from dissimilarity.report.page import FILE, write_page


def run_report(options: argparse.Namespace) -> None:
    """Write the page of the folders on the command line and print its path.

    The page of one folder goes into it. That of several goes into the folder that all of them are in, or else here.

    Raises:
        ValueError: a folder does not exist, or the page cannot be written.
    """
    folders = found_in(options.folders)
    path = options.out or _place(folders) / FILE
    if path.is_dir():
        path = path / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        print(write_page(folders, path))
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; give a file with --out") from error


def _place(folders: list[Path]) -> Path:
    parents = {folder.resolve().parent for folder in folders}
    if len(folders) == 1:
        return folders[0]
    return folders[0].parent if len(parents) == 1 else Path()
