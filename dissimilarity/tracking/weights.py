"""The files of weights that the schedule leaves in a folder of checkpoints."""

from pathlib import Path

import torch


def step_file(folder: Path, step: int) -> Path:
    """Where the weights after so many updates are kept."""
    return folder / f"step_{step:07d}.ckpt"


def step_weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """The weights of the module after so many updates, from the file of that step.

    Raises:
        ValueError: there is no such file.
    """
    path = step_file(folder, step)
    if not path.exists():
        raise ValueError(f"the model at step {step} is gone: expected its checkpoint {path}")
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]


def step_files(folder: Path) -> dict[int, Path]:
    """The files of weights that are there, by step."""
    files = {path.stem.removeprefix("step_"): path for path in folder.glob("step_*.ckpt")}
    return {int(step): path for step, path in files.items() if step.isdecimal()}
