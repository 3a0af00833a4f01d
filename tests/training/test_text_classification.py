"""The data module of labeled texts: formats, truncation, labels, batches by step and rank, probe set, YAML files."""

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

import settings as ours
from data.examples import Example
from data.pairs import PairEncoder
from data.text_classification import TextClassificationDataModule
from data.tokenizers import END_OF_TEXT, BytePairs
from launch.cli.compose import CONF, compose
from tests.helpers.other_tokenizers import word_pieces
from tests.helpers.tiny_text import tiny_texts


class Given:
    """A source that returns given splits."""

    def __init__(self, **splits: list[Example]) -> None:
        self.given = splits

    def splits(self) -> dict[str, list[Example]]:
        return self.given


def pairs(count: int, labels: Sequence[str] = "ab", start: int = 0) -> list[Example]:
    texts = tiny_texts(start + count, words=4)[start:]
    return [Example(text, text[::-1], labels[number % len(labels)]) for number, text in enumerate(texts)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return BytePairs(300).build(tiny_texts())


@pytest.fixture(scope="module")
def bert_tokenizer() -> Tokenizer:
    tokenizer = word_pieces()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def make(tokenizer, splits: dict[str, list[Example]] | None = None, **choices: Any) -> Any:
    splits = {"train": pairs(50), "val": pairs(20, start=50), "out": pairs(7, "b", start=70)} | (splits or {})
    choices = {"n_ctx": 32, "batch_size": 8} | choices
    data = TextClassificationDataModule(source=Given(**splits), tokenizer=tokenizer, **choices)
    data.prepare_data()
    data.setup()
    return data


def test_a_pair_is_text_end_text_end_and_padding(tokenizer):
    encoder = PairEncoder(tokenizer)
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert (encoder.pad, encoder.end_is_pad, encoder.d_vocab) == (end, True, 300)
    spelled = f"a {END_OF_TEXT} b"
    encoded = encoder.encode(
        [Example("one two", "three", "x"), Example("four", None, "x"), Example(spelled, "", "x")], 40
    )
    one, two, three, four = (tokenizer.encode(text).ids for text in ("one two", "three", "four", ""))
    tokenizer.encode_special_tokens = True
    text = tokenizer.encode(spelled).ids
    tokenizer.encode_special_tokens = False
    assert end not in text
    expected = [[*one, end, *two, end], [*three, end], [*text, end, *four, end]]
    assert encoded.tokens.tolist() == [row + [end] * (40 - len(row)) for row in expected]
    assert encoded.truncated == 0


def test_a_tokenizer_that_frames_pairs_keeps_its_format(bert_tokenizer):
    bert_tokenizer.enable_truncation(3)
    bert_tokenizer.enable_padding(length=5)
    encoder = PairEncoder(bert_tokenizer)
    assert (encoder.pad, encoder.end_is_pad) == (bert_tokenizer.token_to_id("[PAD]"), False)
    encoded = encoder.encode([Example("at one", "tea", "x"), Example("at", None, "x")], 24)
    ids = bert_tokenizer.token_to_id
    plain = Tokenizer.from_str(bert_tokenizer.to_str())
    plain.no_truncation()
    plain.no_padding()
    text, pair, single = (plain.encode(part, add_special_tokens=False).ids for part in ("at one", "tea", "at"))
    rows = [[ids("[CLS]"), *text, ids("[SEP]"), *pair, ids("[SEP]")], [ids("[CLS]"), *single, ids("[SEP]")]]
    assert encoded.tokens.tolist() == [row + [ids("[PAD]")] * (24 - len(row)) for row in rows]
    assert bert_tokenizer.truncation is not None and bert_tokenizer.padding is not None


def cut(text: list[int], pair: list[int], room: int) -> tuple[list[int], list[int]]:
    """Remove the last token of the longer text, or of the initially shorter one if they are equal, until both fit."""
    first_was_longer = len(text) > len(pair)
    text, pair = list(text), list(pair)
    while len(text) + len(pair) > room:
        (text if len(text) + (not first_was_longer) > len(pair) else pair).pop()
    return text, pair


@settings(max_examples=60)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(4, 60))
def test_the_longer_text_loses_token_by_token(n_text, n_pair, n_ctx):
    encoder = PairEncoder(BYTES)
    end = encoder.pad
    text, pair = "abcdefghij" * 4, "ABCDEFGHIJ" * 4
    encoded = encoder.encode([Example(text[:n_text], pair[:n_pair], "x")], n_ctx)
    one, two = cut(BYTES.encode(text[:n_text]).ids, BYTES.encode(pair[:n_pair]).ids, n_ctx - 2)
    row = [*one, end, *two, end]
    assert encoded.tokens[0].tolist() == row + [end] * (n_ctx - len(row))
    assert encoded.truncated == (n_text + n_pair > n_ctx - 2)


# Without merges: one token per letter.
BYTES = BytePairs(257).build([])


def test_truncated_rows_are_counted_by_split(tokenizer):
    long = [Example("word " * 40, "short", "a"), Example("short", "word " * 40, "b"), Example("a", "b", "a")]
    data = make(tokenizer, {"val": long})
    assert data.truncated == {"train": data.truncated["train"], "val": 2, "out": data.truncated["out"]}
    tokens, _ = data.encoded("val")
    end = data.pad
    assert tokens.shape == (3, 32) and (tokens[:2, -1] == end).all()
    assert [row.count(end) for row in tokens[:2].tolist()] == [2, 2]
    with pytest.raises(ValueError, match="expected room for 2 tokens .* found rows of 3 tokens: type data.n_ctx=64"):
        make(tokenizer, n_ctx=3)


def test_attributes_say_what_models_and_runs_ask(tokenizer, tmp_path):
    data = make(tokenizer, {"more": pairs(5, "a", start=80)})
    assert data.labels == ("a", "b") and data.ood == ("out", "more")
    assert data.d_vocab == 300 and len(data.fingerprint) == 64
    assert (
        data.fingerprint
        == make(tokenizer, {"more": pairs(5, "a", start=80)}).fingerprint
        != make(tokenizer).fingerprint
    )
    assert data.fingerprints["val"] == make(tokenizer).fingerprints["val"] != data.fingerprints["train"]
    data.tokenizer.save(str(tmp_path / "tokenizer.json"))
    lengths = [len(tokenizer.encode(e.text).ids) + len(tokenizer.encode(e.pair or "").ids) + 2 for e in pairs(50)]
    real = sum(min(length, 32) for length in lengths) / 50
    assert data.tokens_per_step == round(8 * real)
    data.trainer = SimpleNamespace(accumulate_grad_batches=3)
    assert data.tokens_per_step == round(24 * real)


def test_a_tokenizer_can_be_trained_on_the_training_split_alone():
    train = [Example("aaaa", "bbbb", "x"), Example("aaaa", "bbbb", "y")] * 9
    data = make(BytePairs(300), {"train": train, "val": [Example("cccc", "dddd", "x")] * 9, "out": train})
    vocabulary = data.tokenizer.get_vocab()
    assert {"aaaa", "bbbb"} <= set(vocabulary) and not {"cc", "dd"} & set(vocabulary)


def test_labels_are_numbers_of_their_names_in_alphabetical_order(tokenizer):
    data = make(tokenizer, {"train": pairs(50, "ba")})
    tokens, labels = data.encoded("train")
    assert tokens.dtype == labels.dtype == torch.int64 and tokens.shape == (50, 32)
    assert [data.labels[label] for label in labels] == [example.label for example in pairs(50, "ba")]
    assert data.encoded("out")[1].tolist() == [1] * 7
    for split in ("train", "val", "out"):
        assert data.names_of(split) == ("a", "b") and data.classes_of(split).tolist() == [0, 1]
    with pytest.raises(ValueError, match="expected a split out of train, val, out, found 'test'"):
        data.encoded("test")


def test_labels_are_renamed_everywhere_or_merged_where_a_split_knows_fewer(tokenizer):
    splits = {"train": pairs(50, "abc"), "val": pairs(20, "abc"), "out": pairs(7, "an"), "fine": pairs(4, "b")}
    merge = {"b": "n", "c": "n"}
    data = make(tokenizer, splits, merge=merge)
    assert data.labels == data.names_of("val") == data.names_of("fine") == ("a", "b", "c")
    assert data.names_of("out") == ("a", "n") and data.classes_of("out").tolist() == [0, 1, 1]
    assert data.encoded("out")[1].tolist() == [0, 1, 0, 1, 0, 1, 0]
    renamed = make(tokenizer, splits, labels=merge)
    assert renamed.labels == renamed.names_of("fine") == ("a", "n")
    assert renamed.encoded("val")[1].tolist() == [0, 1, 1] * 6 + [0, 1]
    assert renamed.encoded("fine")[1].tolist() == [1] * 4
    backwards = make(tokenizer, {**splits, "out": pairs(4, "a")}, merge={"b": "a"})
    assert backwards.names_of("out") == ("a", "c") and backwards.classes_of("out").tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("splits", "choices", "message"),
    [
        (
            {"train": pairs(50, "abc"), "out": pairs(7, "an")},
            {},
            r"labels of the split train, \['a', 'b', 'c'\], in the split out, found \['a', 'n'\]: .*"
            r"'data.merge=\{b: n, c: n\}'; .* 'data.labels=\{OLD: NEW\}'",
        ),
        (
            {"val": pairs(20, "abc")},
            {},
            r"labels of the split train, \['a', 'b'\], in the split val, found \['a', 'b', 'c'\]",
        ),
        (
            {"out": pairs(7, "z")},
            {"merge": {"b": "n"}},
            r"\['a', 'b'\], merged \['a', 'n'\], in the split out, found \['z'\]",
        ),
        ({"val": pairs(20, "n")}, {"merge": {"b": "n"}}, "in the split val, found"),
        ({}, {"merge": {"z": "n"}}, r"labels of the split train as keys of data.merge, \['a', 'b'\], found \['z'\]"),
        ({}, {"labels": {"z": "n"}}, r"labels of the data as keys of data.labels, \['a', 'b'\], found \['z'\]"),
        ({"train": pairs(50, "a")}, {}, "at least two labels in the split train, found only 'a'"),
        ({}, {"labels": {"b": "a"}}, "at least two labels in the split train, found only 'a'"),
        ({"out": [], "more": []}, {}, "expected examples in every split, found none in out, more"),
        ({"train": []}, {}, "found none in train"),
        ({"train": pairs(5)}, {}, "data.batch_size=8 examples in the split train, found 5: type data.batch_size=5"),
    ],
)
def test_insufficient_or_unsuitable_data_is_rejected(tokenizer, splits, choices, message):
    with pytest.raises(ValueError, match=message):
        make(tokenizer, splits, **choices)


def test_a_missing_split_and_numbers_out_of_range_are_rejected(tokenizer):
    data = TextClassificationDataModule(source=Given(train=pairs(50)), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="expected the splits train and val, found train: val is missing"):
        data.setup()
    for key in ("batch_size", "val_sequences"):
        with pytest.raises(ValueError, match=f"expected data.{key} >= 1, found 0"):
            make(tokenizer, None, **{key: 0})


def trainer(rank: int = 0, world_size: int = 1, step: int = 0) -> Any:
    return SimpleNamespace(
        max_steps=9,
        global_step=step,
        accumulate_grad_batches=1,
        global_rank=rank,
        world_size=world_size,
        limit_train_batches=1.0,
    )


def batches(data: Any, place: Any) -> list:
    data.trainer = place
    return list(data.train_dataloader())


def test_an_epoch_holds_every_example_once_and_its_label(tokenizer):
    data = make(tokenizer, batch_size=10)
    tokens, labels = (torch.cat(parts) for parts in zip(*data.train_dataloader(), strict=True))
    expected, targets = data.encoded("train")
    together = sorted(zip(tokens.tolist(), labels.tolist(), strict=True))
    assert together == sorted(zip(expected.tolist(), targets.tolist(), strict=True))
    assert tokens.tolist() != expected.tolist()


def test_the_order_is_a_function_of_seed_and_step(tokenizer):
    data = make(tokenizer, seed=3)
    whole = batches(data, trainer())
    rest = batches(data, trainer(step=5))
    assert len(whole) == 9 and len(rest) == 4
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(whole[5:], rest, strict=True))
    other = batches(make(tokenizer, seed=4), trainer())
    assert not torch.equal(whole[0][0], other[0][0])


def test_ranks_together_read_what_one_process_reads(tokenizer):
    data = make(tokenizer)
    parts = [batches(data, trainer(rank, 2)) for rank in range(2)]
    for whole, first, second in zip(batches(data, trainer()), *parts, strict=True):
        for place in range(2):
            assert torch.equal(whole[place], torch.cat([first[place], second[place]]))
    data.trainer = trainer(1, 2)
    assert [sum(len(labels) for _, labels in batch) for batch in data.val_dataloader()] == [10, 3]
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        batches(data, trainer(0, 3))


def test_validation_reads_evenly_spaced_rows_of_val_and_then_of_the_others(tokenizer):
    data = make(tokenizer, {"more": pairs(3, start=90)}, val_sequences=5)
    rows_by_split = [torch.cat([tokens for tokens, _ in loader]) for loader in data.val_dataloader()]
    for rows, split, places in zip(
        rows_by_split, ("val", "out", "more"), ([0, 4, 8, 12, 16], [0, 1, 2, 4, 5], [0, 1, 2]), strict=True
    ):
        assert torch.equal(rows, data.encoded(split)[0][places])
    again = [
        torch.cat([tokens for tokens, _ in loader])
        for loader in make(tokenizer, seed=9, val_sequences=5).val_dataloader()
    ]
    assert torch.equal(rows_by_split[0], again[0])


def test_the_probe_set_is_fixed_by_the_data_alone_and_cut_to_its_length(tokenizer):
    data = make(tokenizer)
    assert torch.equal(data.probe(5, 32), data.encoded("val")[0][[0, 4, 8, 12, 16]])
    assert torch.equal(data.probe(7, 32, "out"), make(tokenizer, seed=5, batch_size=2).encoded("out")[0])
    short = data.probe(20, 10)
    assert short.shape == (20, 10) and (short[:, -1] == data.pad).all()
    assert (short == data.pad).sum(1).eq(2).all()
    for arguments, message in {
        (5, 33): "probe.length <= data.n_ctx=32, found 33: type probe.length=32",
        (21, 8): "expected 1 to 20 probe sequences .* found 21: type probe.sequences=20",
        (0, 8): "found 0",
        (5, 8, "test"): "expected a split out of train, val, out, found 'test'",
    }.items():
        with pytest.raises(ValueError, match=message):
            data.probe(*arguments)


LABELED = {
    "heuristics": ["data.source.train=120", "data.source.val=60", "data.source.ood=10"],
    "question_formation": ["data.source.train=120", "data.source.val=60", "data.source.ood=10"],
    "mnli_hans": [],
    "pairs_file": [],
}


@pytest.mark.parametrize("name", LABELED)
def test_every_yaml_composes_and_builds(name, tokenizer, tmp_path):
    overrides = LABELED[name]
    if name == "pairs_file":
        (tmp_path / "a.tsv").write_text(
            "premise\thypothesis\tgold_label\n" + "".join(f"t{n}\th\t{n % 2}\n" for n in range(200))
        )
        overrides = [f"data.source.files={{train: {tmp_path}/a.tsv}}", "data.merge={0: x}", "data.labels={1: 2}"]
    config = compose([f"data={name}", "data_seed=7", *overrides]).data
    data = ours.instantiate(config, tokenizer=tokenizer)
    assert isinstance(data, TextClassificationDataModule) and data.seed == 7
    if name == "mnli_hans":
        assert data._merge == {"neutral": "non-entailment", "contradiction": "non-entailment"}
        return
    data.setup()
    assert len(data.encoded("val")[0]) and data.tokenizer.to_str() == tokenizer.to_str()
    module = ours.instantiate(config)
    module.setup()
    assert module.d_vocab < 4096


def test_a_new_source_is_one_file_and_one_yaml(tmp_path, monkeypatch):
    page = (CONF.parent / "docs" / "extending.md").read_text()
    for name, text in re.findall(r"`mine/((?:data/)?parity\.\w+)`[^`]*?:\n\n```\w+\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    data = ours.instantiate(compose([f"hydra.searchpath=[file://{tmp_path}]", "data=parity"]).data)
    data.setup()
    assert data.labels == ("even", "odd") and data.ood == ("large",) and data.n_ctx == 16


def test_labels_of_any_source_are_one_class_in_every_spelling(tokenizer):
    """A source of a user's own may give "0" and "0.0", or accents in two forms; keys of data.labels match both."""
    rows = {split: pairs(48, ["0", "0.0", " e\u0301", "\u00e9"]) for split in ("train", "val")}
    data = make(tokenizer, {**rows, "out": pairs(7, ["0"])}, labels={0.0: "none"})
    assert data.labels == ("none", "\u00e9")
    assert {example.label for example in data.examples["out"]} == {"none"}
