"""An unusable reference is named before any training step, and the corrected command runs."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

import train
from tests.helpers.tiny_run import in_process, tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished run `good`, and one with another tokenizer, `foreign`."""
    folder = tmp_path_factory.mktemp("references")
    assert in_process(tiny(folder, name="good", trainer__max_steps=2)) == 0
    assert in_process(tiny(folder, name="foreign", trainer__max_steps=2, data__tokenizer__vocab_size=280)) == 0
    return folder


class Harmful:
    """A pickle that would leave a file when executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def broken(kind: str, folder: Path) -> str:
    """Make the reference of this kind and return its URI."""
    path = folder / f"{kind}.ckpt"
    good = folder / "runs" / "good" / "checkpoints" / "last.ckpt"
    if kind == "truncated":
        path.write_bytes(good.read_bytes()[:2000])
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "folder":
        path = folder / "text.txt"
        path.write_text("not a checkpoint")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Harmful(folder / "executed")))
    else:
        return {"missing": "runs/nobody", "step": "runs/good@7", "foreign": "runs/foreign", "hub": "hf:org/model"}[kind]
    return str(path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"runs/nobody.*"),
        ("step", r"no checkpoint of step '7'.*it has 0, 1, 2"),
        ("foreign", r"runs/foreign reads at most 16 tokens.*type probe\.length=\d+ or less"),
        ("folder", r"text\.txt is a file, but not \.ckpt"),
        ("truncated", r"truncated\.ckpt"),
        ("text", r"text\.ckpt"),
        ("pickle", r"(?s)pickle\.ckpt.*objects"),
        ("hub", r"(?s)org/model was not downloaded before.*hf:FOLDER"),
    ],
)
def test_errors_are_named_and_nothing_blocks_the_corrected_command(kind: str, message: str, finished: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train.train(tiny(finished, name="new", references=f"[init,'{broken(kind, finished)}']"))
    assert not (finished / "runs" / "new" / "checkpoints").exists()
    assert not (finished / "executed").exists()
    assert in_process(tiny(finished, name="new", references="[init,runs/good]", trainer__max_steps=1)) == 0
    shutil.rmtree(finished / "runs" / "new")


def test_an_unknown_site_lists_the_sites_that_exist(finished: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)nothing.*blocks\.0"):
        train.train(tiny(finished, name="bare", sites="blocks.*.nothing"))


def test_a_reference_without_the_wanted_site_lists_its_own(finished: Path) -> None:
    assert in_process(tiny(finished, name="no_mlp", model="attn_only", trainer__max_steps=1)) == 0
    with pytest.raises(ValueError, match=r"(?s)mlp_out.*attn_out"):
        train.train(tiny(finished, name="with_mlp", sites="blocks.*.mlp_out", references="[runs/no_mlp]"))


def test_a_probe_too_small_for_a_measure_says_what_to_raise(finished: Path) -> None:
    with pytest.raises(ValueError, match=r"mutual_knn needs 12 samples.* has 8: pass more or longer sequences"):
        train.train(tiny(finished, name="small", probe__sequences=2, probe__length=4))
    assert not (finished / "runs" / "small" / "checkpoints").exists()
