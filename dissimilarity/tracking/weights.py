"""The files of weights that the schedule leaves in a folder of checkpoints."""

from pathlib import Path

import torch


def step_file(folder: Path, step: int) -> Path:
    """Return the file of the weights after a number of updates.

    Examples:
        >>> step_file(Path("checkpoints"), 512).name
        'step_0000512.ckpt'
    """
    return folder / f"step_{step:07d}.ckpt"


def step_weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Return the weights of the module after a number of updates, from the file of that step.

    Raises:
        ValueError: there is no such file.
    """
    path = step_file(folder, step)
    if not path.exists():
        raise ValueError(
            f"the model at step {step} is gone: expected its activations in {folder.parent / 'references'}, or its "
            f"checkpoint {path}; put the folder back as it was, or begin a training in another one"
        )
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]


def step_files(folder: Path) -> dict[int, Path]:
    """Return the files of weights in a folder, by step."""
    files = {path.stem.removeprefix("step_"): path for path in folder.glob("step_*.ckpt") if path.is_file()}
    return {int(step): path for step, path in files.items() if step.isdecimal()}
