"""The notebooks of examples/ run as scripts, offline, with small settings, and leave what they promise."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.pages import ROOT
from tests.helpers.tiny_run import in_process, tiny

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name: str, **settings: Any) -> dict[str, Any]:
    """Run a notebook as a script, with other values of its settings."""
    text = (ROOT / "examples" / f"{name}.py").read_text()
    for setting, value in settings.items():
        names = rf"(?m)^((?:\w+, )*)\b{setting}\b((?:, \w+)*) = (.*?)(  #.*)?$"
        (found,) = re.finditer(names, text)
        place = found[1].count(",")
        values = eval(f"[{found[3]}]", {"Path": Path})
        values[place] = value
        left = f"{found[1]}{setting}{found[2]}"
        text = text.replace(found[0], f"{left} = {', '.join(map(repr, values))}".replace("PosixPath", "Path"))
    names_after: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), names_after)
    return names_after


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_notebook_has_text_and_cells_and_is_linked() -> None:
    assert len(EXAMPLES) == 3
    for path in EXAMPLES:
        text = path.read_text()
        assert text.startswith("# %% [markdown]\n# # ") and text.count("# %%\n") > 5
        assert f"(examples/{path.name})" in (ROOT / "README.md").read_text()


def test_two_models_differ_from_the_block_whose_weights_differ(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    names = run("two_models", SEQUENCES=16, LENGTH=16)
    values = {row["site_a"]: row["value"] for row in names["table"].rows() if row["measure"] == "cka"}
    assert [value > 0.99 for value in values.values()] == [True, True, False, False]
    assert [gap["p"] < 0.05 for gap in names["gaps"].to_pylist()] == [True] * 3
    folder = place / "results" / "two_models"
    assert (folder / "cka.pdf").read_bytes().startswith(b"%PDF") and (folder / "cka.csv").exists()
    assert r"\toprule" in capsys.readouterr().out


def test_two_folders_of_the_user_are_compared(place: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 300, "n_positions": 16}
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.train_from_iterator(["a few words to read"], trainers.BpeTrainer(vocab_size=280, show_progress=False))
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))
        model.save_pretrained(place / f"model{seed}")
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(place / f"model{seed}")
    (place / "text.txt").write_text("a few words to read. " * 400)
    names = run("two_models", A="model0", B="model1", TEXT="text.txt", SEQUENCES=8, LENGTH=16)
    assert names["table"].names == ("model0", "model1") and names["table"].num_rows == 3 * 4


def test_a_fine_tuning_moves_away_from_its_base(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    names = run("finetuning", STEPS=6, EVERY=2)
    moved = names["moved"].to_pylist()
    assert len(moved) == 3 and all(row["difference"] > 0 for row in moved)
    assert (place / "results" / "finetuning" / "base.pdf").exists()
    assert "rose by" in capsys.readouterr().out


def test_a_run_is_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process(tiny(place)) == 0
    names = run("reading_a_run", RUN=place / "runs" / "tiny")
    assert names["steps"][-1] == 11 and names["summary"]["status"] == "finished"
    assert (place / "results" / "reading_a_run" / "mine.pdf").exists()
    out = capsys.readouterr().out
    assert "rows: " in out and "minus step" in out and ("on" in out or "never" in out)


def test_without_a_run_a_small_one_is_trained(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of the notebook is train.py's own, for the folder that the notebook reads."""
    commands = []
    assert in_process(tiny(place, depth=2, name="other")) == 0

    def trained(command: list[str], check: bool) -> None:
        commands.append([str(part) for part in command])
        (place / "runs").rename(place / "there")

    monkeypatch.setattr("subprocess.run", trained)
    (place / "train.py").touch()
    run("reading_a_run", RUN=place / "there" / "other")
    assert commands[0][1:] == [
        *(str(place / "train.py"), "experiment=tiny", "name=other", f"runs_dir={place / 'there'}")
    ]
