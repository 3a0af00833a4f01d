"""Models that take texts of one length have their sites, wherever that length is written."""

import gc
import re
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


class Attention(nn.Module):
    """Attention with a mask in a module of its own, by a function of torch or by hand."""

    def __init__(self, mask: Tensor, kind: str) -> None:
        super().__init__()
        self.kind, self.queries = kind, mask.shape[-2]
        self.read = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        keys = x if self.mask.shape[-1] == self.queries else torch.cat([x, x[:, :2]], 1)  # two more keys than queries
        is_real = self.mask if self.mask.dtype == torch.bool else self.mask == 0
        if self.kind == "module":
            return self.read(x, keys, keys, attn_mask=~is_real)[0]
        if self.kind == "function":
            return nn.functional.scaled_dot_product_attention(x, keys, keys, attn_mask=self.mask)
        weight = x @ keys.mT
        weight = (
            torch.where(is_real, weight, -torch.inf) if self.kind == "where" else weight.masked_fill(~is_real, -9.0)
        )
        return weight.softmax(-1) @ keys


class MaskedBlock(Block):
    def __init__(self, mask: Tensor, kind: str) -> None:
        super().__init__()
        self.attention = Attention(mask, kind)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.attention(x))


class Masked(Model):
    """Its blocks have masks for seven tokens."""

    def __init__(self, mask: Tensor, kind: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MaskedBlock(mask, kind) for _ in range(2))


TRIANGLE = torch.ones(7, 7, dtype=torch.bool).tril()
MASKS = {"bool": TRIANGLE, "float": torch.zeros(7, 7).masked_fill(~TRIANGLE, -torch.inf)}
MASKS |= {f"{name} wide": nn.functional.pad(mask, (0, 2)) for name, mask in MASKS.items()}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", ["function", "module", "where", "masked_fill"])
def test_a_mask_says_how_many_tokens_a_model_takes(mask: str, kind: str, tmp_path: Path) -> None:
    model = Masked(MASKS[mask], kind)
    assert list(site_table(model)) == SITES
    compare(model, model, TOKENS[:, :7], measures=[CKA()], null=False)
    message = (
        r"Masked cannot read 5 tokens: it runs on 7 random tokens, not on 5, 3.* \(.*\); pass sequences of 7 tokens$"
    )
    for sites in (SITES[-1], "layers.*"):
        with pytest.raises(ValueError, match=message):
            compare(model, model, TOKENS[:, :5], sites, measures=[CKA()], null=False)
    tracker = Tracker("init", CKA(), TOKENS[:, :5], tmp_path, every=1)
    tracker.follow(model, 0)
    (note,) = {row["note"] for row in read_curves(tmp_path).to_pylist()}
    assert re.search(message, note)


def test_a_mask_that_is_cut_says_what_is_too_long() -> None:
    class Cut(Model):
        def positions(self, ids: Tensor) -> Tensor:
            x, mask = self.embed(ids), TRIANGLE[: ids.shape[1], : ids.shape[1]]
            return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)

    message = "Cut cannot read 9 tokens: it runs on 3 random tokens, not on 9.*; pass shorter sequences$"
    model = Cut()
    with pytest.raises(ValueError, match=message):
        compare(model, model, TOKENS[:, :9], measures=[CKA()], null=False)


def test_a_fault_at_any_length_stays_what_it_is() -> None:
    class Broken(Model):
        def positions(self, ids: Tensor) -> Tensor:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="^broken$"):
        compare(Broken(), Broken(), TOKENS, "layers.*", measures=[CKA()], null=False)


def test_what_is_remembered_of_a_model_does_not_keep_it_in_memory() -> None:
    model = Code()
    assert not site_table(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
