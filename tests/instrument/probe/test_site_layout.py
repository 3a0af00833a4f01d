"""Sites of any layout: the samples are those of sequences, positions and features, whoever returns them and how."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dissimilarity import CKA, compare, save_activations
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.functional import cka
from dissimilarity.probe.running import SiteReader

VOCABULARY, WIDTH = 30, 6


class Embedded(nn.Module):
    """A token embedding in front of anything."""

    def __init__(self, seed: int, part: Callable[[], nn.Module], width: int = WIDTH) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.part = nn.Embedding(VOCABULARY, width), part()
        self.double().eval()


class Folded(Embedded):
    """Runs its part on all tokens of the batch at once, as a mixture of experts does."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.part(self.embed(tokens).flatten(0, 1)).unflatten(0, tokens.shape)


class SequenceSecond(Embedded):
    """Runs its part on (positions, sequences, d), as PyTorch's modules do by default."""

    def forward(self, tokens: Tensor) -> Tensor:
        return _first(self.part(self.embed(tokens.T)))


class SequenceFirst(Embedded):
    """Runs its part on (sequences, positions, d)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return _first(self.part(self.embed(tokens)))


class FoldedSecond(Embedded):
    """Runs its part on (positions * sequences, d)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.part(self.embed(tokens.T).flatten(0, 1))


class Attention(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x, x, x)


def _first(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def encoder(batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def linear() -> nn.Module:
    return nn.Linear(WIDTH, 5)


LAYOUTS = {
    "folded": (Folded, linear, "part"),
    "folded, positions first": (FoldedSecond, linear, "part"),
    "encoder": (SequenceSecond, lambda: encoder(False), "part"),
    "inside an encoder": (SequenceSecond, lambda: encoder(False), "part.layers.1.linear1"),
    "encoder, batch first": (SequenceFirst, lambda: encoder(True), "part"),
    "recurrent": (SequenceSecond, lambda: nn.LSTM(WIDTH, 5), "part"),
    "attention": (SequenceSecond, lambda: Attention(WIDTH, 2), "part"),
    "no module that knows": (SequenceSecond, nn.Tanh, "part"),
    "input": (SequenceSecond, linear, "part.input"),
}


def alone(net: nn.Module, site: str, tokens: Tensor) -> Tensor:
    """Return the samples of every sequence on its own, without any layout: (sequences * positions, d)."""
    rows: list[Tensor] = []
    path, side = (site.removesuffix(".input"), "input") if site.endswith(".input") else (site, "output")

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        rows.append((args[0] if side == "input" else _first(output)).reshape(tokens.shape[1], -1))

    handle = net.get_submodule(path).register_forward_hook(keep)
    with torch.no_grad():
        for row in tokens:
            net(row[None])
    handle.remove()
    return torch.cat(rows)


def tokens_of(sequences: int, length: int) -> Tensor:
    return torch.randint(VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(8, 12), (8, 8)], ids=["more positions", "as many sequences as positions"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_samples_are_those_of_each_sequence_alone(name: str, shape: tuple[int, int]) -> None:
    family, part, site = LAYOUTS[name]
    a, b, tokens = family(1, part), family(2, part), tokens_of(*shape)
    row = compare(a, b, tokens, site, [CKA(units="sample")]).to_pylist()[0]
    x, y = (alone(net, site, tokens) for net in (a, b))
    assert row["n_samples"] == tokens.numel()
    assert row["value"] == pytest.approx(float(cka(x, y)), abs=1e-9)
    # The error bar and the null tell the samples of one sequence from those of one position.
    saved = compare(
        {"x": x.unflatten(0, shape)}, {"y": y.unflatten(0, shape)}, measures=[CKA(units="sample")]
    ).to_pylist()[0]
    assert all(row[column] == pytest.approx(saved[column], abs=1e-9) for column in ("value", "stderr", "null"))


def test_as_many_sequences_as_positions_take_one_more_short_pass() -> None:
    net, tokens, sizes = SequenceFirst(1, linear), tokens_of(8, 8), []
    net.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    SiteReader(net, tokens, ["part"]).read(slice(0, 8))
    assert sizes == [8, 1]


@pytest.mark.parametrize("name", ["folded", "encoder"])
def test_saved_and_many_have_the_same_samples(name: str, tmp_path: Path) -> None:
    family, part, site = LAYOUTS[name]
    a, b, tokens = family(1, part), family(2, part), tokens_of(8, 8)
    expected = pytest.approx(float(cka(alone(a, site, tokens), alone(b, site, tokens))), abs=1e-9)
    saved = [
        save_activations(net, tokens, tmp_path / f"{label}.safetensors", site) for label, net in (("a", a), ("b", b))
    ]
    assert compare(saved[0], saved[1], measures=[CKA(units="sample")])["value"][0].as_py() == expected
    assert compare_many({"a": a, "b": b}, tokens, site, [CKA(units="sample")])["value"][0].as_py() == expected


class Experts(nn.Module):
    """Gives its part the even tokens alone, as an expert gets those that a router chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.part, self.table = nn.Embedding(VOCABULARY, WIDTH), linear(), nn.Embedding(40, WIDTH)
        self.all = nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        self.part(self.embed(tokens)[tokens % 2 == 0])
        self.table(torch.arange(tokens.shape[1]))
        return self.all(torch.cat([self.embed(tokens[:, :1]), self.embed(tokens)], 1))


@pytest.mark.parametrize("site", ["part", "table", "all"])
def test_samples_of_no_sequence_are_rejected_with_their_shapes(site: str) -> None:
    """Tokens chosen from all sequences, the same for all sequences, and more than a sequence has."""
    expected = (
        r"at all, found activations \(4, 13, 6\) of tokens \(4, 12\)" if site == "all" else f"of 3 at {site}; choose"
    )
    with pytest.raises(ValueError, match=expected):
        compare(Experts(), Experts(), tokens_of(4, 12), site, [CKA(units="sample")])


class Sorted(Embedded):
    """Runs its part on all tokens of the batch, sorted by expert."""

    def forward(self, tokens: Tensor) -> Tensor:
        samples = self.embed(tokens).flatten(0, 1)
        order = samples[:, 0].argsort()
        return self.part(samples[order])[order.argsort()].unflatten(0, tokens.shape)


def test_samples_in_an_order_of_their_own_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"together at part, found \(24, 5\) of 2 sequences in another order"):
        compare(Sorted(1, linear), Sorted(2, linear), tokens_of(8, 12), "part", [CKA(units="sample")])


class Image(nn.Module):
    """The ways in which vision models arrange their features, all of them of the same numbers."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, channels, 2, stride=2), nn.Tanh()
        self.last, self.norm, self.flat = nn.Identity(), nn.LayerNorm(channels), nn.Identity()
        self.mixed = nn.Identity()
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        y = self.norm(self.last(x.movedim(1, -1)))
        self.flat(y.flatten(1, 2))
        return self.mixed(y.movedim(-1, 1) + x)


IMAGES = torch.randn(10, 3, 6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("site", ["conv", "conv.input", "act", "last", "norm", "flat", "mixed"])
def test_features_are_where_the_modules_put_them(site: str) -> None:
    net = Image()
    read = SiteReader(net, IMAGES, [site]).read(slice(0, 10))[site]
    x = net.act(net.conv(IMAGES))
    y = net.norm(x.movedim(1, -1))
    expected = {"conv": net.conv(IMAGES), "conv.input": IMAGES, "mixed": y.movedim(-1, 1) + x}.get(site, x)
    expected = y if site in ("norm", "flat") else expected.movedim(1, -1)
    assert torch.equal(read, expected.flatten(1, 2))


class Signal(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm, self.act = nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU()
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


@pytest.mark.parametrize("length", [10, 8], ids=["longer", "as long as there are channels"])
@pytest.mark.parametrize("site", ["conv", "norm", "act"])
def test_channels_of_a_convolution_are_features(site: str, length: int) -> None:
    x = torch.randn(32, 4, length, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a, b = Signal(1), Signal(2)
    row = compare(a, b, x, site, [CKA(units="sample")]).to_pylist()[0]
    stages = [{"conv": net.conv(x), "norm": net.norm(net.conv(x)), "act": net(x)}[site] for net in (a, b)]
    expected = cka(*(stage.detach().transpose(1, 2).flatten(0, 1) for stage in stages))
    assert row["n_samples"] == 32 * length
    assert row["value"] == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("width", [6, 8], ids=["as many channels as rows", "channels of their own"])
@pytest.mark.parametrize("site", ["last", "mixed"])
def test_features_that_a_permutation_moved_are_still_features(site: str, width: int) -> None:
    """Rows and channels of one number: the other dimensions show which of them was moved."""

    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, width, 1), nn.Identity()
            self.linear, self.mixed = nn.Linear(width, width), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(self.last(self.conv(x).relu().movedim(1, -1)))
            return self.mixed(y.relu().movedim(-1, 1))

    net = Moved().double()
    read = SiteReader(net, IMAGES, [site]).read(slice(0, 10))[site]
    expected = net.conv(IMAGES).relu().movedim(1, -1)
    expected = expected if site == "last" else net.linear(expected).relu()
    assert torch.equal(read, expected.flatten(1, 2))


class Mixer(Embedded):
    """Runs its part along the positions of each feature."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.part(self.embed(tokens).transpose(1, 2)).transpose(1, 2)


def test_a_linear_map_of_positions_does_not_decide_alone() -> None:
    net, tokens = Mixer(1, lambda: nn.Linear(12, 12)), tokens_of(8, 12)
    with pytest.raises(ValueError, match=r"of \(2, 6, 12\) holds the features at part; pass"):
        compare(net, net, tokens, "part", [CKA(units="sample")])
    read = SiteReader(net, tokens, ["part"], channels="first").read(slice(0, 8))["part"]
    assert torch.equal(read, net(tokens))


def test_features_that_the_modules_do_not_determine_are_asked_for() -> None:
    """A square of channels and positions that two kinds of modules have returned could be either."""
    net, images = Image(3), torch.cat([IMAGES[..., :6]], -1)
    with pytest.raises(ValueError, match=r"at mixed; pass channels=\{'mixed': 'first'\} for"):
        compare(net, net, images, "mixed", [CKA(units="sample")])
    first = compare(net, net, images, "mixed", [CKA(units="sample")], channels="first")
    last = compare(net, net, images, "mixed", [CKA(units="sample")], channels={"mix*": "last"})
    assert first["n_samples"][0].as_py() == last["n_samples"][0].as_py() == 90
    read = SiteReader(net, images, ["mixed"], channels="first").read(slice(0, 10))["mixed"]
    assert torch.equal(read, net(images).movedim(1, -1).flatten(1, 2))


def test_saved_images_are_read_back(tmp_path: Path) -> None:
    net = Image()
    path = save_activations(net, IMAGES, tmp_path / "net.safetensors", "conv")
    row = compare(path, net, IMAGES, "conv", [CKA(units="sample")]).to_pylist()[0]
    assert (row["value"], row["n_samples"]) == (pytest.approx(1, abs=1e-12), 150)


def test_arrays_of_images_take_their_channels_from_the_user() -> None:
    x = net_output = Image().conv(IMAGES).detach()
    with pytest.raises(ValueError, match=r"of \(10, 4, 3, 5\) holds the features at x; pass channels=\{'x': 'first'\}"):
        compare({"x": x}, {"x": x}, measures=[CKA(units="sample")])
    row = compare({"x": x}, {"x": net_output**3}, measures=[CKA(units="sample")], channels="first").to_pylist()[0]
    expected = cka(*(array.movedim(1, -1).flatten(0, 2) for array in (x, x**3)))
    assert (row["value"], row["n_samples"]) == (pytest.approx(float(expected), abs=1e-9), 150)
