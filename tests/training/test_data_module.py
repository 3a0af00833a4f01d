"""The data module: batches with a real trainer and over ranks, the probe set, small corpora, every YAML file."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from data.module import TextDataModule
from data.probe import draw_probe, probe_hash
from data.tokenizers import BytePairs
from tests.helpers.tiny_text import Texts, tiny_texts

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def make(cache_dir, **choices) -> Any:
    choices = {"n_ctx": 16, "batch_size": 4, "val_fraction": 0.2} | choices
    data = TextDataModule(source=Texts(tiny_texts()), tokenizer=BytePairs(300), cache_dir=cache_dir, **choices)
    data.prepare_data()
    data.setup()
    return data


def test_attributes_are_there_without_a_trainer(cache_dir, tmp_path):
    data = make(cache_dir)
    assert data.d_vocab == data.tokenizer.get_vocab_size() == 300
    assert 1 < data.bytes_per_token < 5
    assert 0 < data.unigram_loss < np.log(300)
    assert len(data.fingerprint) == 64
    assert data.tokens_per_step == 64
    data.tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert (tmp_path / "tokenizer.json").exists()


def test_an_epoch_holds_every_target_once(cache_dir):
    data = make(cache_dir)
    tokens = torch.from_numpy(data.packed.tokens["train"].astype(np.int64))
    n_blocks = (len(tokens) - 1) // 16
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == -(-n_blocks // 4)
    assert {batch.shape for batch in batches} == {(4, 17)} and batches[0].dtype == torch.int64
    rows = torch.cat(batches)[:n_blocks]
    expected = torch.stack([tokens[place : place + 17] for place in range(0, n_blocks * 16, 16)])
    assert sorted(rows.tolist()) == sorted(expected.tolist())


class Recorder(pl.LightningModule):
    """A module that trains one number and records every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[list[int]]] = []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen.append(batch.tolist())
        return self.weight * batch.float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(cache_dir, folder, max_steps, ckpt_path=None, batch_size=4, **choices) -> Any:
    trainer: Any = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **choices,
    )
    recorder = Recorder()
    trainer.fit(recorder, datamodule=make(cache_dir, batch_size=batch_size), ckpt_path=ckpt_path)
    assert trainer.global_step == max_steps
    return trainer, recorder.seen


class SaveAtThree(pl.Callback):
    """A callback that saves in the middle of a run, at the same point as the project's checkpoints."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_) -> None:
        file = Path(trainer.default_root_dir, "three.ckpt")
        # The next batch of an accumulation comes with the same step, but its gradients are not in a checkpoint.
        if trainer.global_step == 3 and not file.exists():
            trainer.save_checkpoint(file)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_resumed_run_sees_the_tail_of_the_whole_one(cache_dir, tmp_path, accumulated, recwarn):
    choices = {"accumulate_grad_batches": accumulated}
    _, whole = fit(cache_dir, tmp_path, 7, callbacks=[SaveAtThree()], **choices)
    assert len(whole) == 7 * accumulated
    _, tail = fit(cache_dir, tmp_path, 7, tmp_path / "three.ckpt", **choices)
    assert tail == whole[3 * accumulated :]
    assert not [warning for warning in recwarn if "not resumable" in str(warning.message)]


def test_a_finished_run_continues_to_a_later_step(cache_dir, tmp_path):
    _, whole = fit(cache_dir, tmp_path, 7)
    first, head = fit(cache_dir, tmp_path, 3)
    first.save_checkpoint(tmp_path / "finished.ckpt")
    _, tail = fit(cache_dir, tmp_path, 7, tmp_path / "finished.ckpt")
    assert head + tail == whole


@pytest.mark.parametrize("limit", [3, 0.4])
def test_a_limited_epoch_has_the_first_batches_again(cache_dir, tmp_path, limit):
    """0.4 of 8 steps is 3 batches."""
    _, whole = fit(cache_dir, tmp_path, 8)
    _, limited = fit(cache_dir, tmp_path, 8, limit_train_batches=limit, callbacks=[SaveAtThree()])
    assert limited == (whole[:3] * 3)[:8]
    _, tail = fit(cache_dir, tmp_path, 8, tmp_path / "three.ckpt", limit_train_batches=limit)
    assert tail == limited[3:]


def test_tokens_of_a_step_count_accumulated_batches(cache_dir, tmp_path):
    trainer, _ = fit(cache_dir, tmp_path, 1, accumulate_grad_batches=3)
    assert trainer.datamodule.tokens_per_step == 3 * 64


def test_training_continues_past_the_end_of_the_data(cache_dir, tmp_path):
    epoch = len(make(cache_dir, batch_size=64).train_dataloader())
    _, seen = fit(cache_dir, tmp_path, 2 * epoch + 1, batch_size=64)
    assert len(seen) == 2 * epoch + 1


def test_training_without_a_number_of_steps_is_rejected(cache_dir):
    data = make(cache_dir)
    data.trainer = SimpleNamespace(max_steps=-1, accumulate_grad_batches=1, global_rank=0, world_size=1)
    with pytest.raises(
        ValueError, match=f"one pass over this data is trainer.max_steps={len(make(cache_dir).train_dataloader())}"
    ):
        data.train_dataloader()


def batches_of_rank(data, rank, world_size, loader):
    data.trainer = SimpleNamespace(
        max_steps=5,
        global_step=2,
        accumulate_grad_batches=1,
        global_rank=rank,
        world_size=world_size,
        limit_train_batches=1.0,
    )
    return list(getattr(data, loader)())


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_ranks_together_read_what_one_process_reads(cache_dir, loader):
    data = make(cache_dir, val_sequences=22)
    [whole] = [batches_of_rank(data, 0, 1, loader)]
    parts = [batches_of_rank(data, rank, 2, loader) for rank in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1]) == (3 if loader == "train_dataloader" else 6)
    for batch, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(batch, torch.cat([first, second]))


def test_validation_is_the_same_for_every_seed_and_time(cache_dir):
    data, other = make(cache_dir, val_sequences=10), make(cache_dir, val_sequences=10, seed=5)
    first, again, seeded = (
        torch.cat(list(loader)) for loader in map(TextDataModule.val_dataloader, (data, data, other))
    )
    assert first.shape == (10, 17)
    assert torch.equal(first, again) and torch.equal(first, seeded)
    assert len(torch.cat(list(make(cache_dir, val_sequences=10**6).val_dataloader()))) > 100
    assert not torch.equal(next(iter(data.train_dataloader())), next(iter(other.train_dataloader())))


def test_probe_set_is_fixed_by_the_data_alone(cache_dir):
    probe = make(cache_dir).probe(8, 16)
    assert probe.shape == (8, 16) and probe.dtype == torch.int64
    same = make(cache_dir, seed=7, batch_size=2, n_ctx=32).probe(8, 16)
    assert torch.equal(probe, same) and probe_hash(probe) == probe_hash(same)
    train = make(cache_dir).probe(8, 16, split="train")
    assert probe_hash(train) != probe_hash(probe)
    assert probe_hash(probe) != probe_hash(probe.reshape(16, 8))
    assert len({tuple(row) for row in probe.tolist()}) == 8


def test_probe_sequences_are_evenly_spaced_and_do_not_overlap():
    rows = draw_probe(np.arange(1000, dtype=np.uint16), 7, 9, "val")
    starts = rows[:, 0]
    assert torch.equal(rows, starts[:, None] + torch.arange(9))
    gaps = starts.diff()
    assert gaps.min() >= 9 and gaps.max() - gaps.min() <= 9
    assert starts[0] == 0 and starts[-1] > 1000 - 1000 / 7 - 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"sequences": 10**6, "length": 16},
            r"expected 1000000 probe sequences .* found \d+ .*: type probe.sequences=\d+",
        ),
        ({"sequences": 8, "length": 17}, "probe.length <= data.n_ctx=16, found 17: type probe.length=16"),
        ({"sequences": 8, "length": 16, "split": "test"}, "probe.split to be one of train, val, found 'test'"),
        ({"sequences": 0, "length": 16}, "found 0 and 16"),
    ],
)
def test_impossible_probe_sets_are_rejected(cache_dir, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(cache_dir).probe(**arguments)


def test_probe_longer_than_the_split_names_a_length_that_fits():
    with pytest.raises(ValueError, match="type probe.length=25"):
        draw_probe(np.zeros(100, dtype=np.uint16), 4, 101, "val")


def test_text_for_less_than_a_batch_is_rejected(cache_dir):
    with pytest.raises(
        ValueError, match=r"at least 4 blocks of data.n_ctx=20000 .* train split, found \d .*type data.n_ctx="
    ):
        make(cache_dir, n_ctx=20000)
    with pytest.raises(ValueError, match="data.batch_size >= 1, found 0"):
        make(cache_dir, batch_size=0)


def test_a_pickled_module_maps_the_files_again(cache_dir):
    data = make(cache_dir)
    blob = pickle.dumps(data.packed)
    assert len(blob) < 1000
    assert pickle.loads(blob).tokens["train"].tolist() == data.packed.tokens["train"].tolist()


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(overrides=["+data_seed=0", *overrides])


LABELED = {"heuristics", "question_formation", "mnli_hans", "pairs_file"}
DATA = sorted({file.stem for file in (CONF / "data").glob("*.yaml")} - LABELED - {"base"})
FEW = ["data.source.sources.2.examples.train=60"]
NEEDED = {
    "files": [f"data.source.paths=[{CONF}]"],
    "hub": ["data.source.name=someone/something"],
    "mix_questions": FEW,
    "mix_heuristics": FEW,
}


@pytest.mark.parametrize("name", DATA)
def test_every_yaml_composes_and_builds(name, tmp_path):
    config = composed(f"+data={name}", *NEEDED.get(name, []), f"data.cache_dir={tmp_path}")
    data = instantiate(config.data)
    assert isinstance(data, TextDataModule)
    assert data._source.fingerprint() == instantiate(config.data)._source.fingerprint()


def test_the_default_yaml_holds_the_defaults():
    config = OmegaConf.to_container(composed("+data=mix").data, resolve=True)
    assert isinstance(config, dict)
    assert {key: config[key] for key in ("n_ctx", "batch_size", "seed", "cache_dir")} == {
        "n_ctx": 128,
        "batch_size": 16,
        "seed": 0,
        "cache_dir": "cache",
    }


@pytest.mark.parametrize(
    ("name", "override"), [("bpe", "vocab_size=300"), ("file", "path={}"), ("hub", "name=someone/something")]
)
def test_every_tokenizer_yaml_builds(name, override, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    config = composed("+data=stdlib", f"data/tokenizer={name}", f"data.tokenizer.{override.format(path)}")
    assert instantiate(config.data)._tokenizer_spec.fingerprint()


def test_a_new_source_is_one_file_and_one_yaml(tmp_path, monkeypatch):
    (tmp_path / "my_source.py").write_text(
        "class Squares:\n"
        "    def documents(self):\n"
        "        return ((str(n), f'{n} squared is {n * n}. ' * 9) for n in range(200))\n"
        "    def fingerprint(self):\n"
        "        return 'squares'\n"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "squares.yaml").write_text(
        "defaults: [base, _self_]\nsource: {_target_: my_source.Squares}\nval_fraction: 0.2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = composed(
        f"hydra.searchpath=[file://{tmp_path}]",
        "+data=squares",
        f"data.cache_dir={tmp_path}",
        "data.tokenizer.vocab_size=300",
    )
    data = instantiate(config.data)
    data.setup()
    assert data.tokenizer.decode(data.probe(1, 60)[0].tolist()).count("squared") > 1
