"""Models that take texts of one length have their sites, wherever that length is written."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dissimilarity import CKA, compare, compare_many, intrinsic, read_curves, save_activations
from dissimilarity.capture.sites import resolve, site_table
from dissimilarity.tracking.tracker import Tracker

LENGTH, WIDTH = 24, 8
TOKENS = torch.randint(LENGTH, (8, LENGTH), generator=torch.Generator().manual_seed(0))
SITES = ["embed", "blocks.0.resid_pre", "blocks.0.resid_post", "blocks.1.resid_pre", "blocks.1.resid_post"]


class Block(nn.Module):
    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.mlp = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.mlp(x))


class Model(nn.Module):
    """Blocks on embedded tokens of any length."""

    def __init__(self, seed: int = 0, vocabulary: int = 30) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(vocabulary, WIDTH)
        self.layers = nn.ModuleList(self.block() for _ in range(2))

    def block(self) -> nn.Module:
        return Block()

    def positions(self, ids: Tensor) -> Tensor:
        return torch.zeros(())

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.positions(ids)
        for layer in self.layers:
            x = layer(x)
        return x


class Buffer(Model):
    """Its positions are a buffer, added as a whole."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.table: Tensor
        self.register_buffer("table", torch.randn(1, LENGTH, WIDTH))

    def positions(self, ids: Tensor) -> Tensor:
        return self.table


class Sinusoids(nn.Module):
    """A module without others inside, with a buffer of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor
        self.register_buffer("table", torch.randn(LENGTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


class BufferInside(Model):
    """The same in a module of its own."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.encode = Sinusoids()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.encode(self.embed(ids))
        for layer in self.layers:
            x = layer(x)
        return x


class AsManyWords(Model):
    """It has as many positions as words."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed, vocabulary=LENGTH)
        self.place = nn.Embedding(LENGTH, WIDTH)

    def positions(self, ids: Tensor) -> Tensor:
        return self.place.weight


class Numbers(Model):
    """Its buffer has the numbers of the positions."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.place = nn.Embedding(2 * LENGTH, WIDTH)
        self.register_buffer("ids", torch.arange(LENGTH)[None])

    def positions(self, ids: Tensor) -> Tensor:
        return self.place(self.ids)


class MixerBlock(Block):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(LENGTH, LENGTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(x.mT).mT
        return super().forward(x)


class Mixer(Model):
    """An MLP-mixer: a layer is between the tokens."""

    def block(self) -> nn.Module:
        return MixerBlock()


class Attribute(Model):
    """A number says it."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.max_seq_len = LENGTH

    def positions(self, ids: Tensor) -> Tensor:
        if ids.shape[1] != self.max_seq_len:
            raise RuntimeError("another length")
        return torch.zeros(())


class Flat(Model):
    """A head reads all tokens at once."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.head = nn.Linear(LENGTH * WIDTH, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(super().forward(ids).flatten(1))


class Code(Model):
    """Its code alone says it."""

    def positions(self, ids: Tensor) -> Tensor:
        assert ids.shape[1] == 24
        return torch.zeros(())


class TypeOfError(Model):
    """The same, with an error that says nothing of lengths."""

    def positions(self, ids: Tensor) -> Tensor:
        if ids.shape[1] != 24:
            raise TypeError("these are no tokens")
        return torch.zeros(())


class Blocks(Code):
    """The same, whose blocks are taken to run in order as long as nothing runs."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.blocks = self.layers
        del self.layers

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.positions(ids)
        for block in self.blocks:
            x = block(x)
        return x


class Padding(Model):
    """It brings its input to one length, whatever that was."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(ids, (0, 24 - ids.shape[1])))


KNOWN = [Buffer, BufferInside, AsManyWords, Numbers, Mixer, Attribute, Flat]
IN_CODE = [Code, TypeOfError, Padding]


@pytest.mark.parametrize("kind", KNOWN)
def test_a_length_in_the_model_is_found(kind: type[Model]) -> None:
    assert list(site_table(kind())) == SITES


@pytest.mark.parametrize("kind", IN_CODE)
def test_a_length_in_the_code_is_that_of_the_probe_set(kind: type[Model]) -> None:
    model = kind()
    assert not site_table(model)
    assert resolve(model, "blocks.*", LENGTH) == SITES[1:]
    assert list(site_table(model)) == SITES  # remembered


@pytest.mark.parametrize("kind", [*KNOWN, *IN_CODE])
def test_comparisons_and_trackers_have_the_sites(kind: type[Model], tmp_path: Path) -> None:
    """Values are those of the module paths that the names stand for."""
    paths = {"blocks.0.resid_post": "layers.0", "blocks.1.resid_post": "layers.1"}
    table = compare(kind(0), kind(1), TOKENS, measures=[CKA()], pairs="matched", null=False)
    oracle = compare(kind(0), kind(1), TOKENS, "layers.*", [CKA()], pairs="matched", null=False)
    assert [paths[site] for site in table["site_a"].to_pylist()] == oracle["site_a"].to_pylist()
    assert table["value"].to_pylist() == oracle["value"].to_pylist()
    tracker = Tracker({"init": "init", "other": kind(1)}, CKA(), TOKENS, tmp_path, every=1)
    tracker.follow(kind(0), 0, last_step=0)
    rows = [row for row in read_curves(tmp_path).to_pylist() if row["reference"] == "other"]
    values = {row["site_a"]: row["value"] for row in rows if row["site_a"] == row["site_b"]}
    assert values == pytest.approx(dict(zip(paths, oracle["value"].to_pylist(), strict=True)), abs=1e-6)


def test_what_a_name_suggests_is_replaced_by_what_runs() -> None:
    model = Blocks()
    assert resolve(model, "blocks.*")
    assert site_table(model)["blocks.0.resid_post"].side == "input"  # what the next block reads
    site_table(model, LENGTH)
    assert site_table(model)["blocks.0.resid_post"].side == "output"


@pytest.mark.parametrize(
    "read",
    [
        lambda model, folder: compare_many({"a": model, "b": Code(1)}, TOKENS, measures=[CKA()], null=False),
        lambda model, folder: intrinsic(model, TOKENS),
        lambda model, folder: save_activations(model, TOKENS, folder / "acts.safetensors"),
    ],
)
def test_other_entries_have_the_sites_too(read: Callable[[nn.Module, Path], object], tmp_path: Path) -> None:
    read(Code(), tmp_path)


def test_a_model_that_does_not_run_says_what_was_tried() -> None:
    with pytest.raises(ValueError, match=r"Code does not run on 3, 10 or 8 random tokens \(AssertionError.*, so if"):
        compare(Code(0), Code(1), TOKENS[:, :10])
    with pytest.raises(ValueError, match=r"does not run on 3 or 8 random tokens .*sites='layers\.\*' for this model"):
        resolve(Code(), "blocks.*")


def test_what_is_remembered_of_a_model_does_not_keep_it_in_memory() -> None:
    model = Code()
    assert not site_table(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
