"""References by URI: what loads, and the message for every broken or hostile file."""

import hashlib
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from torch.utils.data import DataLoader

from models.language_model import LanguageModel
from models.references import check_tokenizer, load, tokenizer_hash
from tests.helpers.families import family_config, optim_config

D_VOCAB = 31


def make_tokenizer(words="ab"):
    tokenizer = Tokenizer(BPE(vocab={letter: i for i, letter in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a runs folder with one run: weights after 1 and 2 steps, last.ckpt after 3. Read-only."""
    torch.set_num_threads(1)
    runs = tmp_path_factory.mktemp("base") / "runs"
    checkpoints = runs / "solu-w64-d1-s0" / "checkpoints"
    net = family_config("solu", width=64, depth=1, n_ctx=8)
    module = LanguageModel(net, optim_config(), D_VOCAB, bytes_per_token=3.0, unigram_loss=3.0)
    weights = {}

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            step = trainer.global_step
            name = "last.ckpt" if step == 3 else f"step_{step:07d}.ckpt"
            trainer.save_checkpoint(checkpoints / name, weights_only=step < 3)
            weights[step] = {key: value.clone() for key, value in module.net.state_dict().items()}

    trainer = pl.Trainer(
        max_steps=3, accelerator="cpu", logger=False, callbacks=[Save()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    sequences: Any = torch.randint(D_VOCAB, (6, 9))
    trainer.fit(module, DataLoader(sequences, batch_size=2))
    make_tokenizer().save(str(checkpoints.parent / "tokenizer.json"))
    return runs, weights


@pytest.fixture
def runs(trained, tmp_path):
    """Return a copy of the runs folder for a test to break."""
    return Path(shutil.copytree(trained[0], tmp_path / "runs"))


def checkpoint_of(runs, name="last.ckpt"):
    return runs / "solu-w64-d1-s0" / "checkpoints" / name


def rewrite(path, change):
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)


@pytest.mark.parametrize(("uri", "step"), [("runs/solu-w64-d1-s0", 3), ("runs/solu-w64-d1-s0@1", 1)])
def test_a_run_and_a_step_of_it(trained, uri, step):
    runs, weights = trained
    reference = load(uri, runs)
    state = reference.model.state_dict()
    assert state.keys() == weights[step].keys()
    assert all(torch.equal(state[name], weights[step][name]) for name in state)
    assert not reference.model.training and not any(p.requires_grad for p in reference.model.parameters())
    assert reference.sites[0] == "embed" and "blocks.0.mlp.mid" in reference.sites
    assert reference.tokenizer is not None and reference.tokenizer.get_vocab_size() == 2
    assert reference.model(torch.zeros(2, 8, dtype=torch.int64)).shape == (2, 8, D_VOCAB)


def test_provenance(trained):
    path = checkpoint_of(trained[0], "step_0000002.ckpt")
    reference = load(str(path))
    assert reference.provenance == {
        "uri": str(path),
        "path": str(path.resolve()),
        "step": 2,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "pinned": str(path.resolve()),
        "tokenizer_path": str(path.absolute().parent.parent / "tokenizer.json"),
        "tokenizer_sha256": tokenizer_hash(make_tokenizer()),
    }


def test_without_last_the_highest_step_is_taken(runs):
    checkpoint_of(runs).unlink()
    assert load("runs/solu-w64-d1-s0", runs).provenance["step"] == 2


def test_a_run_folder_may_be_anywhere(runs):
    assert load(f"{runs}/solu-w64-d1-s0@2").provenance["step"] == 2


def test_without_a_tokenizer_file_there_is_none(runs):
    (runs / "solu-w64-d1-s0" / "tokenizer.json").unlink()
    reference = load("runs/solu-w64-d1-s0", runs)
    assert reference.tokenizer is None and reference.provenance["tokenizer_sha256"] is None


def test_loading_leaves_the_random_state_alone(trained):
    before = torch.get_rng_state()
    load("runs/solu-w64-d1-s0", trained[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("init", r"'init'.*tracker.*runs/NAME"),
        ("previous", r"'previous'.*tracker"),
        ("nowhere/net.safetensors", r"no file .*nowhere.net\.safetensors"),
        (
            "tl:solu-5l",
            r"no such model of TransformerLens \(did you mean tl:solu-\dl\?\); expected tl:FOLDER or tl: and",
        ),
        (
            "tl:solu-1l",
            r"(?s)SoLU_1L512W_C4_Code was not downloaded before.*HF_HUB_OFFLINE.*tl:FOLDER: the files config",
        ),
        ("wandb:a/b:v1", r"expected wandb:ENTITY/PROJECT/ARTIFACT:VERSION"),
        ("wandb:a/b/c", r"expected wandb:ENTITY/PROJECT/ARTIFACT:VERSION"),
        ("wandb:a/../c:v1", r"expected wandb:ENTITY/PROJECT/ARTIFACT:VERSION"),
        ("runs/solu-w64-d1-s1", r"no run folder .*solu-w64-d1-s1.*did you mean runs/solu-w64-d1-s0"),
        ("somewhere", r"no run folder .*somewhere.*a reference is runs/NAME"),
        ("runs/solu-w64-d1-s0@7", r"no checkpoint of step '7' in .*it has 1, 2"),
        ("runs/solu-w64-d1-s0@last", r"no checkpoint of step 'last'"),
        ("nowhere/last.ckpt", r"no file .*nowhere.last\.ckpt"),
    ],
)
def test_a_missing_model_is_named(trained, uri, message):
    with pytest.raises(ValueError, match=message):
        load(uri, trained[0])


def test_a_run_without_checkpoints_is_rejected(tmp_path):
    (tmp_path / "runs" / "new").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"new holds no checkpoint.*let that run train"):
        load("runs/new", tmp_path / "runs")


@pytest.mark.parametrize("keep", [0, 1000, -30])
def test_a_truncated_file(runs, keep):
    path = checkpoint_of(runs)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"last\.ckpt: it is truncated or damaged \(\d+ bytes\)"):
        load("runs/solu-w64-d1-s0", runs)


def test_a_file_that_is_not_a_checkpoint_is_rejected(tmp_path):
    path = tmp_path / "notes.ckpt"
    path.write_text("hello, this is text")
    with pytest.raises(ValueError, match=r"notes\.ckpt: it is not a checkpoint"):
        load(str(path))


@pytest.mark.parametrize("content", [{"a": torch.ones(2)}, [1, 2], {"state_dict": 3, "hyper_parameters": {}}])
def test_a_torch_file_with_other_content_is_rejected(tmp_path, content):
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"other\.ckpt: it is not a checkpoint of a training run: expected state_dict"):
        load(str(path))


class Hostile:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("form", ["torch.save", "pickle", "old pickle"])
def test_a_hostile_pickle_is_not_executed(tmp_path, form):
    path, trace = tmp_path / "model.ckpt", tmp_path / "executed"
    hostile = {"state_dict": {}, "hyper_parameters": Hostile(str(trace))}
    if form == "torch.save":
        torch.save(hostile, path)
    else:
        path.write_bytes(pickle.dumps(hostile, protocol=2 if form == "old pickle" else 4))
    with pytest.raises(ValueError, match=r"model\.ckpt: it holds Python objects.*none of it was loaded"):
        load(str(path))
    assert not trace.exists()
    pickle.loads(pickle.dumps(hostile))
    assert trace.exists(), "the pickle of this test does nothing, so the test proves nothing"


def test_hostile_settings_are_not_executed(runs, tmp_path):
    trace = tmp_path / "executed"
    call = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [str(trace)]}}
    rewrite(checkpoint_of(runs), lambda c: c["hyper_parameters"]["net"].update(activation=call))
    with pytest.raises(ValueError, match=r"last\.ckpt.*pathlib\.Path\.touch"):
        load("runs/solu-w64-d1-s0", runs)
    assert not trace.exists()


def test_an_unknown_family(runs):
    change = {"family": "sollu", "_target_": "models.sollu.Sollu"}
    rewrite(checkpoint_of(runs), lambda c: c["hyper_parameters"]["net"].update(change))
    with pytest.raises(
        ValueError,
        match=r"last\.ckpt: .*family 'sollu'.*models\.sollu\.Sollu is not a net of this project.*hydra\.searchpath",
    ):
        load("runs/solu-w64-d1-s0", runs)


def test_a_newer_format(runs):
    rewrite(checkpoint_of(runs), lambda c: c.update(format=99))
    with pytest.raises(ValueError, match=r"last\.ckpt: its format is 99 and this version reads format 1.*update"):
        load("runs/solu-w64-d1-s0", runs)


@pytest.mark.parametrize("change", [{"swiglu": True}, {"d_model": 128}])
def test_settings_that_name_other_code_are_rejected(runs, change):
    rewrite(checkpoint_of(runs), lambda c: c["hyper_parameters"]["net"].update(change))
    with pytest.raises(ValueError, match=r"last\.ckpt: its model \(family 'solu'\) cannot be built here"):
        load("runs/solu-w64-d1-s0", runs)


def test_a_broken_tokenizer(runs):
    (runs / "solu-w64-d1-s0" / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read the tokenizer .*tokenizer\.json"):
        load("runs/solu-w64-d1-s0", runs)


def test_another_tokenizer_is_rejected(trained):
    reference = load("runs/solu-w64-d1-s0", trained[0])
    check_tokenizer(reference, make_tokenizer())
    with pytest.raises(
        ValueError, match=r"solu-w64-d1-s0' was trained with a different tokenizer \(sha256 \w+, 2 tokens\)"
    ):
        check_tokenizer(reference, make_tokenizer("ba"))


def test_without_a_tokenizer_the_vocabulary_must_be_large_enough(runs):
    (runs / "solu-w64-d1-s0" / "tokenizer.json").unlink()
    reference = load("runs/solu-w64-d1-s0", runs)
    check_tokenizer(reference, make_tokenizer())
    with pytest.raises(ValueError, match=r"knows 31 tokens and the tokenizer of the probe set has 40"):
        check_tokenizer(reference, make_tokenizer("".join(chr(97 + i) for i in range(40))))
