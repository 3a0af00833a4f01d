"""Padding of any amount, on either side, changes nothing: the values are those of every text alone."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from dissimilarity import CKA, Control, ProbeSet, Procrustes, compare, save_activations
from dissimilarity.capture.hooks import capture
from dissimilarity.comparison.compare_many import compare_many
from dissimilarity.functional import cka
from dissimilarity.probe.padded_inputs import PaddedInputs
from dissimilarity.probe.running import SiteReader

VOCABULARY, LENGTH, PAD = 40, 9, 1
LENGTHS = torch.tensor([9, 2, 5, 4, 7, 3, 3, 9, 6, 5, 2, 8])
WORDS = torch.randint(3, VOCABULARY, (len(LENGTHS), LENGTH), generator=torch.Generator().manual_seed(0))
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXT: dict[str, Any] = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 80, "pad_token_id": PAD}


class LooksAhead(nn.Module):
    """Adds the mean over the positions that count to each of them; without a mask all count."""

    def __init__(self, length: int = 80) -> None:
        super().__init__()
        self.embed, self.site = nn.Embedding(VOCABULARY, 8), nn.Linear(8, 8)
        self.place = nn.Parameter(torch.randn(length, 8))

    def mixed(self, tokens: Tensor, real: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place[: tokens.shape[1]]
        weights = real.to(x)[..., None]
        return self.site(x + 3 * (x * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True))


class Unmasked(LooksAhead):
    def forward(self, tokens: Tensor) -> Tensor:
        return self.mixed(tokens, torch.ones_like(tokens))


class Demanding(LooksAhead):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.mixed(input_ids, attention_mask)


class InPyTorch(LooksAhead):
    def forward(self, tokens: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        return self.mixed(tokens, torch.ones_like(tokens) if src_key_padding_mask is None else ~src_key_padding_mask)


class Around(nn.Module):
    """The forward of many LightningModules around a model of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Demanding()

    def forward(self, **batch: Any) -> Tensor:
        return self.net(**batch)


class KnowsItself(LooksAhead):
    """Tells padding by its token."""

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mixed(tokens, tokens != PAD)


class Recurrent(nn.Module):
    """Reads from left to right, so that padding in front of a text changes what it makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.site = nn.Embedding(VOCABULARY, 8), nn.LSTM(8, 8, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.site(self.embed(tokens))[0]


def pretrained(kind: str, **config: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**config))


GPT2 = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": VOCABULARY, "n_positions": 80}
ENDS = {"bos_token_id": 0, "eos_token_id": 2}
MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "encoder": (pretrained("Bert", **TEXT), "encoder.layer.0"),
    "encoder, positions by tokens": (pretrained("Roberta", **TEXT), "encoder.layer.0"),
    "decoder": (pretrained("GPT2", **GPT2, **ENDS), "h.0"),
    "decoder, rotary": (pretrained("Llama", **TEXT, **ENDS), "layers.0"),
    "recurrent": (Recurrent, "site"),
    "mask required": (Demanding, "site"),
    "mask of PyTorch": (InPyTorch, "site"),
    "keywords alone": (Around, "net.site"),
    "knows padding itself": (KnowsItself, "site"),
    "unmasked": (Unmasked, "site"),
}


def net_of(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = MODELS[name][0]().double().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.4)
    return net


def padded(extra: int, side: str) -> tuple[Tensor, Tensor]:
    """Return the texts with padding after or before them, and the mask."""
    places = torch.arange(LENGTH + extra)
    shift = LENGTH + extra - LENGTHS[:, None] if side == "left" else torch.zeros(len(LENGTHS), 1, dtype=torch.long)
    mask = (places >= shift) & (places < shift + LENGTHS[:, None])
    tokens = torch.full(mask.shape, PAD)
    tokens[mask] = WORDS[torch.arange(LENGTH) < LENGTHS[:, None]]
    return tokens, mask


def alone(net: nn.Module, site: str, skip: int = 0) -> Tensor:
    """Return the activations of every text on its own, without padding or a mask."""
    rows = []
    for words, length in zip(WORDS, LENGTHS, strict=True):
        tokens = words[None, :length]
        with capture(net, site) as acts:
            if isinstance(net, (Demanding, Around)):
                net(input_ids=tokens, attention_mask=torch.ones_like(tokens))
            else:
                net(tokens)
        rows.append(acts[site][0, skip:])
    return torch.cat(rows)


@pytest.mark.parametrize("name", MODELS)
def test_the_value_is_that_of_every_text_alone(name: str) -> None:
    a, b, site = net_of(name, 1), net_of(name, 2), MODELS[name][1]
    expected = float(cka(alone(a, site), alone(b, site)))
    values = []
    for side in ("right", "left"):
        for extra in (0, 10, 40):
            tokens, mask = padded(extra, side)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore" if name == "unmasked" else "error", UserWarning)
                row = compare(a, b, tokens, site, [CKA(units="sample")], mask=mask, n_units=3).to_pylist()[0]
            assert row["n_samples"] == int(LENGTHS.sum())
            values.append(row["value"])
    assert values[0] == pytest.approx(expected, abs=1e-9)
    assert len(set(values)) == 1


def test_other_entry_points_give_the_same_values(tmp_path: Path) -> None:
    tokens, mask = padded(4, "left")
    a, b, site = net_of("encoder", 1), net_of("encoder", 2), MODELS["encoder"][1]
    expected = pytest.approx(float(cka(alone(a, site), alone(b, site))), abs=1e-9)
    many = compare_many({"a": a, "b": lambda: b}, tokens, site, [CKA(units="sample")], mask=mask, n_units=3)
    saved = [
        save_activations(net, tokens, tmp_path / f"{seed}.safetensors", site, mask=mask)
        for seed, net in enumerate((a, b))
    ]
    both = compare(saved[0], saved[1], ProbeSet(None, mask, n_units=3), measures=[CKA(units="sample")])
    mixed = compare(saved[0], b, tokens, site, [CKA(units="sample")], mask=mask, n_units=3)
    tokenized = transformers.BatchEncoding({"input_ids": tokens, "attention_mask": mask.long()})
    encoded = compare(a, b, tokenized, site, [CKA(units="sample")], n_units=3)
    for table in (many, both, mixed, encoded):
        assert table["value"][0].as_py() == expected


def test_a_model_that_reads_padding_is_named_and_its_texts_run_separately() -> None:
    tokens, mask = padded(3, "right")
    net, inputs = net_of("unmasked", 1), ProbeSet(tokens, mask).inputs_a
    assert isinstance(inputs, PaddedInputs)
    with pytest.warns(UserWarning, match="changes the activations of Unmasked at site, and its forward takes none of"):
        acts = SiteReader(net, inputs, ["site"]).read(slice(2, 9))["site"]
    assert acts.shape == (7, LENGTH + 3, 8)
    assert torch.allclose(acts[mask[2:9]], alone(net, "site")[int(LENGTHS[:2].sum()) : int(LENGTHS[:9].sum())])


def test_a_mask_that_is_not_used_is_reported() -> None:
    class Deaf(Unmasked):
        def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return super().forward(tokens)

    tokens, mask = padded(3, "right")
    with pytest.warns(UserWarning, match="takes attention_mask and still reads padding"):
        compare(Deaf(), Deaf(), tokens, "site", [CKA(units="sample")], mask=mask, n_units=3)


def of_one_length(family: type[nn.Module]) -> type[nn.Module]:
    """Return the models of a family that take texts of one length only."""

    class OneLength(family):
        def forward(self, tokens: Tensor) -> Tensor:
            assert tokens.shape[1] == LENGTH
            return super().forward(tokens)

    return OneLength


def test_a_model_of_fixed_length_runs_on_whole_rows() -> None:
    family = of_one_length(Recurrent)
    tokens, mask = padded(0, "right")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = compare(family(), family(), tokens, "site", [CKA(units="sample")], mask=mask, n_units=3)
    assert table["n_samples"][0].as_py() == int(LENGTHS.sum())


def test_a_model_of_fixed_length_that_reads_padding_is_named() -> None:
    family = of_one_length(Unmasked)
    tokens, mask = padded(0, "right")
    with pytest.warns(UserWarning, match="OneLength takes inputs of one size only, and padding changes .* at site"):
        compare(family(), family(), tokens, "site", [CKA(units="sample")], mask=mask, n_units=3)


@pytest.mark.parametrize("control", [Control(skip_first=1), Control(every=2), Control(drop_top_norm=1)])
def test_positions_are_counted_from_the_start_of_the_text(control: Control) -> None:
    a, b = net_of("decoder, rotary", 1), net_of("decoder, rotary", 2)
    values = []
    for side, extra in (("right", 0), ("left", 0), ("left", 7)):
        tokens, mask = padded(extra, side)
        values.append(
            compare(a, b, tokens, "layers.0", [CKA(units="sample")], mask=mask, n_units=3, control=control).to_pylist()[
                0
            ]
        )
    assert len({(row["value"], row["n_samples"]) for row in values}) == 1
    if control.skip_first:
        expected = float(cka(alone(a, "layers.0", 1), alone(b, "layers.0", 1)))
        assert values[0]["value"] == pytest.approx(expected, abs=1e-9)


def test_longformer_is_compared_at_its_tokens_alone() -> None:
    """It fills its inputs up to the next multiple of its window."""
    config = {**TEXT, "attention_window": 16}
    nets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        nets.append(transformers.LongformerModel(transformers.LongformerConfig(**config)).eval())
    tokens, site = torch.randint(3, VOCABULARY, (12, 10)), "encoder.layer.0"
    row = compare(nets[0], nets[1], tokens, site, [CKA(units="sample"), Procrustes()]).to_pylist()[0]
    samples = []
    for net in nets:
        with capture(net, site) as acts:
            net(tokens)
        samples.append(acts[site][:, :10].flatten(0, 1).double())
    assert row["n_samples"] == 120
    assert row["value"] == pytest.approx(float(cka(*samples)), abs=1e-6)


def test_texts_longer_than_a_model_reads_are_rejected() -> None:
    torch.manual_seed(0)
    net = transformers.RobertaModel(transformers.RobertaConfig(**{**TEXT, "max_position_embeddings": 12})).eval()
    for tokens, reason in (
        (torch.randint(3, VOCABULARY, (6, 12)), ": it runs on 2, 3 or 8 random tokens, not on 12 or 16"),
        (torch.full((6, 4), VOCABULARY), " with ids up to"),
    ):
        with pytest.raises(ValueError, match=rf"RobertaModel cannot read {tokens.shape[1]} tokens{reason}"):
            compare(net, net, tokens, "encoder.layer.0", [CKA(units="sample")], n_units=3)


def test_other_faults_of_a_model_are_not_taken_for_long_texts() -> None:
    class TooManyExperts(LooksAhead):
        def forward(self, tokens: Tensor) -> Tensor:
            return self.site(self.embed(tokens).topk(9).values)

    net, tokens = TooManyExperts(), torch.randint(3, VOCABULARY, (6, 4))
    with pytest.raises(RuntimeError, match=r"^selected index k out of range$"):
        compare(net, net, tokens, "site", [CKA(units="sample")], n_units=3)


@pytest.mark.parametrize(
    ("token_ids", "start"), [({"decoder_start_token_id": 7}, 7), ({}, PAD), ({"pad_token_id": None}, 0)]
)
def test_a_decoder_that_demands_its_input_reads_the_text_shifted_by_one(token_ids: dict[str, Any], start: int) -> None:
    sizes: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=VOCABULARY, **{"pad_token_id": PAD, **sizes, **token_ids})
    nets = [transformers.T5ForConditionalGeneration(config).eval() for _ in range(2)]
    tokens, site = torch.randint(3, VOCABULARY, (12, 6)), "decoder.blocks.1.resid_post"
    shifted = torch.cat([torch.full((12, 1), start), tokens[:, :-1]], 1)
    streams = []
    for net in nets:
        with capture(net, site) as acts:
            net(tokens, decoder_input_ids=shifted)
        streams.append(acts[site].flatten(0, 1).double())
    row = compare(nets[0], nets[1], tokens, site, [CKA(units="sample")]).to_pylist()[0]
    assert row["value"] == pytest.approx(float(cka(streams[0], streams[1])), abs=1e-6)
