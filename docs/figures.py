"""Make the pictures of README.md and docs/ with the commands that stand beside them.

`python -m docs.figures` makes those of the gallery in about six minutes on one core; `--studies` makes all of them,
which takes more than an hour. With a folder as its argument, runs are kept there, and the next call continues.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
COLORS = 192
"""Colors of a picture; with a palette, it takes a third of the bytes."""

SWEEP = "python train.py -m experiment=short model=solu,gelu seed=0,1,2"
TRACKED = (
    "python train.py experiment=short model=gelu seed=3 name=tracked callbacks=stitching alerts=[move,collapse] "
    "references=[init,previous,runs/solu-w64-d4-s0]"
)
DRIFT = (
    "python train.py experiment=short model=gelu seed=3 name=drift measures=fast "
    "references=[runs/solu-w64-d4-s0,runs/solu-w64-d4-s1,runs/solu-w64-d4-s2,runs/gelu-w64-d4-s0,runs/gelu-w64-d4-s1,"
    "runs/gelu-w64-d4-s2] "
    "'reference_groups={solu: [runs/solu-w64-d4-s0,runs/solu-w64-d4-s1,runs/solu-w64-d4-s2], "
    "gelu: [runs/gelu-w64-d4-s0,runs/gelu-w64-d4-s1,runs/gelu-w64-d4-s2]}'"
)
TWO = (
    "python analyze.py study=compare models=[runs/solu-w64-d4-s0,runs/gelu-w64-d4-s0] study.influence=true "
    "figures.scale=data name=two"
)
SIX = "python analyze.py study=compare 'models=[runs/*-s?]' study.pairs=matched name=families"
CURVES = "python analyze.py study=curves 'models=[runs/*-s?]'"
SHELL = "dissimilarity compare runs/tracked@200 runs/tracked --nulls 20 --out results/shell"
PAIRED = """\
import matplotlib.pyplot as plt

from dissimilarity import difference, read_curves, select

curves = select(read_curves("runs/tracked"), reference="solu-w64-d4-s0", measure="cka")
first, last = (select(curves, site_a=site, site_b=site) for site in ("blocks.0.resid_post", "blocks.3.resid_post"))
rows = difference(last, first).to_pylist()  # at each step, on the same text
figure, panel = plt.subplots(figsize=(4.5, 2.5), layout="constrained")
panel.errorbar(
    [row["step"] for row in rows], [row["difference"] for row in rows], [2 * row["stderr"] for row in rows], fmt="o-"
)
panel.axhline(0, color="gray", linewidth=0.8)
panel.set(xlabel="training step", ylabel="1 - CKA: block 3 minus block 0", title="tracked vs solu-w64-d4-s0")
figure.savefig("paired.png", dpi=150)
"""
BROWSER = "chromium --headless --window-size=1200,1750 --virtual-time-budget=8000"
LIGHT = f"{BROWSER} --screenshot=light.png runs/tracked/report.html"
DARK = f"{BROWSER} --force-dark-mode --screenshot=dark.png runs/tracked/report.html"

README = (
    "python train.py",
    "python train.py model=gelu references=[init,runs/solu-w128-d2-s0] measures=fast",
)


@dataclass(frozen=True)
class Picture:
    """A picture of the documentation.

    Attributes:
        file: where it is, below docs/.
        commands: what makes it, as shown before it on its page: shell commands, or the lines of a block of Python.
        source: what the last of these leaves, below the folder in which they run.
        takes_long: whether they take more than a minute or two.
    """

    file: str
    commands: tuple[str, ...]
    source: str
    takes_long: bool = False


def _study(name: str, figure: str, file: str) -> Picture:
    command = f"python analyze.py study={name} size=small"
    return Picture(f"results/{file}.png", (command,), f"results/{name}/figures/{figure}.png", takes_long=True)


PICTURES = (
    Picture("gallery/curves.png", (SWEEP, TRACKED), "runs/tracked/figures/curves.png"),
    Picture("gallery/heatmap.png", (TRACKED,), "runs/tracked/figures/heatmap_solu-w64-d4-s0.png"),
    Picture("gallery/intrinsic.png", (TRACKED,), "runs/tracked/figures/intrinsic.png"),
    Picture("gallery/penalties.png", (TRACKED,), "runs/tracked/figures/penalties.png"),
    Picture("gallery/groups.png", (DRIFT,), "runs/drift/figures/groups.png"),
    Picture("gallery/paired.png", (PAIRED,), "paired.png"),
    Picture("gallery/two.png", (TWO,), "results/two/figures/heatmap_solu-w64-d4-s0_gelu-w64-d4-s0.png"),
    Picture("gallery/text.png", (TWO,), "results/two/figures/text_solu-w64-d4-s0_gelu-w64-d4-s0_cka.png"),
    Picture("gallery/models.png", (SIX,), "results/families/figures/models.png"),
    Picture("gallery/runs.png", (CURVES,), "results/curves/figures/curves_init.png"),
    Picture("gallery/shell.png", (SHELL,), "results/shell/figures/comparison.png"),
    Picture("gallery/report_light.png", (LIGHT,), "light.png"),
    Picture("gallery/report_dark.png", (DARK,), "dark.png"),
    Picture("curves.png", README, "runs/gelu-w128-d2-s0/figures/curves.png", takes_long=True),
    _study("asymmetry", "asymmetry", "asymmetry"),
    _study("generalization", "layers", "generalization_layers"),
    _study("generalization", "steps", "generalization_steps"),
    _study("dynamics", "arrival", "dynamics"),
    _study("scaling", "sizes", "scaling"),
)
"""All pictures, in an order in which their commands can run."""


def main() -> None:
    """Run the commands, each once, and put what they leave into docs/."""
    parser = argparse.ArgumentParser("docs.figures", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where the commands run; by default a temporary one")
    parser.add_argument("--studies", action="store_true", help="also those that take more than an hour in all")
    options = parser.parse_args()
    pictures = [picture for picture in PICTURES if options.studies or not picture.takes_long]
    with tempfile.TemporaryDirectory() as temporary:
        make(pictures, options.folder or Path(temporary))


def make(pictures: Sequence[Picture], folder: Path) -> None:
    """Run the commands of some pictures in a folder, each once, and put what they leave into docs/.

    Args:
        pictures: the pictures.
        folder: where the commands run. A training that is there and finished is left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "WANDB_MODE": "offline"}
    for command in dict.fromkeys(command for picture in pictures for command in picture.commands):
        print(command, flush=True)
        subprocess.run(arguments_of(command), cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    for picture in pictures:
        place(picture, folder)


def place(picture: Picture, folder: Path) -> None:
    """Put what the commands of a picture left in a folder into docs/, as a small file."""
    file = ROOT / "docs" / picture.file
    file.parent.mkdir(exist_ok=True)
    with Image.open(folder / picture.source) as image:
        image.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"docs/{picture.file}: {file.stat().st_size / 1000:.0f} kB")


def arguments_of(command: str) -> list[str]:
    """Return the program and arguments of a command that a page shows.

    Examples:
        >>> arguments_of("python train.py seed=1")[2:], arguments_of("dissimilarity report runs")[1:]
        (['seed=1'], ['-m', 'dissimilarity', 'report', 'runs'])
    """
    if "\n" in command:
        return [sys.executable, "-c", command]
    program, *arguments = shlex.split(command)
    if program == "python":
        return [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
    if program == "dissimilarity":
        return [sys.executable, "-m", "dissimilarity", *arguments]
    as_root = ["--no-sandbox"] if program == "chromium" and os.geteuid() == 0 else []  # it refuses to start otherwise
    return [program, *as_root, *arguments]


if __name__ == "__main__":
    main()
