"""Two tokenizations of one text: where they meet, by a search over characters, and for models that read it alike."""

import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from torch import Tensor, nn

from data.tokenizers import END_OF_TEXT, BytePairs
from dissimilarity import CKA, KL, MutualKNN, Procrustes, capture, compare
from dissimilarity.loading.texts import encoded, texts_of
from dissimilarity.probe.alignment import Alignment, Reading, Tokenized, align, word_ends
from dissimilarity.probe.outliers import Control
from tests.helpers.other_tokenizers import pieces_with_spaces, word_pieces
from tests.helpers.tiny_text import tiny_texts

LETTERS = "abç_é1 .\n🙂"
TEXTS = st.text(LETTERS, min_size=1, max_size=30).filter(lambda text: re.search(r"\w", text))


def cut(text: str, places: list[bool]) -> list[tuple[int, int]]:
    """Cut a text into tokens at some places and at its end, after one token without text."""
    ends = [place + 1 for place, is_end in enumerate(places[: len(text) - 1]) if is_end] + [len(text)]
    return [(0, 0), *zip([0, *ends[:-1]], ends, strict=True)]


def tokenized(spans: list[tuple[int, int]], copies: int = 2) -> Tokenized:
    copied = torch.tensor([spans] * copies)
    return Tokenized(torch.zeros(copied.shape[:2], dtype=torch.int64), copied)


def by_search(text: str, a: list[tuple[int, int]], b: list[tuple[int, int]], unit: str) -> list[tuple[int, int]]:
    """Find at every character the last token of each side that ends there, white space aside."""
    boundaries = []
    for end in range(1, len(text) + 1):
        if text[end - 1].isspace() or (unit == "word" and not re.match(r"\w(?!\w)", text[end - 1 : end + 1])):
            continue
        tokens = [
            [i for i, (start, stop) in enumerate(spans) if start < end <= stop and not text[end:stop].strip()]
            for spans in (a, b)
        ]
        if all(tokens):
            boundaries.append((tokens[0][-1], tokens[1][-1]))
    return boundaries


@settings(max_examples=300)
@given(TEXTS, st.lists(st.booleans(), min_size=30, max_size=30), st.lists(st.booleans(), min_size=30, max_size=30))
@pytest.mark.parametrize("unit", ["word", "token"])
def test_common_boundaries_are_those_of_a_search_over_characters(
    unit: Any, text: str, cuts_a: list[bool], cuts_b: list[bool]
) -> None:
    a, b = cut(text, cuts_a), cut(text, cuts_b)
    expected = by_search(text, a, b, unit)
    if not expected:
        with pytest.raises(ValueError, match="no common boundary"):
            align(tokenized(a), tokenized(b), [text] * 2, unit)
        return
    alignment = align(tokenized(a), tokenized(b), [text] * 2, unit)
    sides = (alignment.a, 0, a, alignment.share_a), (alignment.b, 1, b, alignment.share_b)
    for reading, side, spans, share in sides:
        lasts = [pair[side] for pair in expected]
        assert reading.last.tolist() == [lasts] * 2
        assert reading.first.tolist() == [[0, *(last + 1 for last in lasts[:-1])]] * 2
        assert share == pytest.approx(len(lasts) / (len(spans) - 1))
        assert reading.counts.tolist() == [[False] + [True] * (len(spans) - 1)] * 2


def test_words_are_letters_marks_digits_and_underscores_in_any_script() -> None:
    text = "Naïve x_1, don't: हिन्दी 日本語!"
    assert [text[:end] for end in sorted(word_ends(text))] == [
        "Naïve",
        "Naïve x_1",
        "Naïve x_1, don",
        "Naïve x_1, don't",
        "Naïve x_1, don't: हिन्दी",
        "Naïve x_1, don't: हिन्दी 日本語",
    ]


def test_every_text_keeps_the_same_number_of_boundaries_and_texts_with_fewer_are_dropped() -> None:
    texts = ["a b c d e f g h i j k l"] * 5 + ["a b c d e"] + ["a b c d e f g"] * 5
    spans = [[(2 * i, 2 * i + 1) for i in range(len(text.split()))] for text in texts]
    padded = torch.tensor([text_spans + [(0, 0)] * (12 - len(text_spans)) for text_spans in spans])
    side = Tokenized(torch.zeros(11, 12, dtype=torch.int64), padded, padded[..., 1] > 0)
    both = align(side, side, texts)
    assert both.rows == (0, 1, 2, 3, 4, 6, 7, 8, 9, 10) and both.units == 7
    assert both.a.last[0].tolist() == [0, 2, 4, 6, 7, 9, 11] and both.a.last[-1].tolist() == list(range(7))
    assert both.share_a == pytest.approx(70 / (5 * 12 + 5 + 5 * 7)) == both.share_b
    assert both.a.mask is not None and len(both.a) == 10 and both.extent == (10, 12)


@pytest.mark.parametrize("take", ["last", "mean"])
def test_the_sample_of_a_unit_is_its_last_token_or_the_mean_over_its_tokens_with_text(take: Any) -> None:
    torch.manual_seed(0)
    counts = torch.rand(3, 9) > 0.3
    first, last = torch.tensor([[0, 4]] * 3), torch.tensor([[3, 8]] * 3)
    counts[:, [3, 8]] = True
    reading = Reading(torch.zeros(3, 9, dtype=torch.int64), None, first, last, counts, take, 9)
    activation = torch.randn(2, 9, 5, dtype=torch.float64)
    units = reading.units(activation, slice(1, 3))
    for sequence in range(2):
        for unit, (start, stop) in enumerate(((0, 3), (4, 8))):
            inside = [at for at in range(start, stop + 1) if counts[1 + sequence, at]]
            expected = activation[sequence, inside].mean(0) if take == "mean" else activation[sequence, stop]
            torch.testing.assert_close(units[sequence, unit], expected)
    half = reading.units(activation.bfloat16(), slice(1, 3))
    assert half.dtype == (torch.float32 if take == "mean" else torch.bfloat16)


def sequences(tokenizer: Tokenizer, count: int = 12, length: int = 40, seed: int = 1) -> Tensor:
    """Return the tokens of consecutive documents, cut anywhere."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    ids = [number for text in tiny_texts(60, 8, seed) for number in [end, *tokenizer.encode(text).ids]]
    return torch.tensor(ids[7 : 7 + count * length]).view(count, length)


def test_tokens_cut_anywhere_have_their_text_and_its_span() -> None:
    """Parts of characters, ends of documents inside a sequence, words without their beginning."""
    tokenizer = BytePairs(280).build(tiny_texts())
    tokens = sequences(tokenizer)
    texts, spans = texts_of(tokens, tokenizer)
    end, whole = tokenizer.token_to_id(END_OF_TEXT), 0
    assert (tokens == end).sum() > 3 and any("é" in text for text in texts)
    for ids, text, places in zip(tokens.tolist(), texts, spans.tolist(), strict=True):
        parts = tokenizer.decode(ids, skip_special_tokens=False).split(END_OF_TEXT)
        assert text == "\n\n".join(part for part in parts if part)
        assert places[-1][1] == len(text) and all(stop <= start for (_, stop), (start, _) in pairwise(places))
        for number, (start, stop) in zip(ids, places, strict=True):
            if number == end:
                assert start == stop
            elif "\ufffd" not in tokenizer.decode([number]):
                assert text[start:stop] == tokenizer.decode([number])
                whole += 1
    assert whole > 300
    # A token that holds a part of a character counts as holding all of it, and ends where the character does.
    bytes_of_one = torch.tensor([BytePairs(257).build([]).encode("a🙂b").ids])
    assert texts_of(bytes_of_one, BytePairs(257).build([]))[1][0, :, 1].tolist() == [1, 2, 2, 2, 2, 3]


@pytest.mark.parametrize("make", [word_pieces, pieces_with_spaces])
def test_another_tokenizer_reads_the_text_with_its_special_tokens_and_padding(make: Any) -> None:
    tokenizer, texts = make(), ["Élan 12, don't!", "a\n\n  b 🙂 naïve"]
    tokens, spans, mask = encoded(texts, tokenizer)
    for row, text in enumerate(texts):
        encoding = tokenizer.encode(text)
        count = len(encoding.ids)
        assert tokens[row, :count].tolist() == encoding.ids
        assert mask[row].tolist() == [True] * count + [False] * (len(mask[row]) - count)
        special = [index for index, is_special in enumerate(encoding.special_tokens_mask) if is_special]
        assert special and all(start == stop for start, stop in spans[row, special].tolist())
        covered = "".join(text[start:stop] for start, stop in dict.fromkeys(map(tuple, spans[row].tolist())))
        assert re.sub(r"\s", "", covered) == re.sub(r"\s", "", text)
    assert not spans[~mask].any()


class Summing(nn.Module):
    """A model whose stream depends on the bytes read so far, whatever tokens they came in."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        alphabet = {letter: index for index, letter in enumerate(sorted(BytePairs(257).build([]).get_vocab()))}
        generator = torch.Generator().manual_seed(3)
        letters = torch.randn(len(alphabet), 16, generator=generator, dtype=torch.float64)
        weight = torch.zeros(tokenizer.get_vocab_size(), 16, dtype=torch.float64)
        for piece, number in tokenizer.get_vocab().items():
            if piece != END_OF_TEXT:
                weight[number] = sum(letters[alphabet[letter]] for letter in piece)
        self.embed = nn.Embedding.from_pretrained(weight)
        mixing = torch.randn(16, 16, generator=generator, dtype=torch.float64)
        self.blocks = nn.ModuleList([Fading(), Mixing(mixing)])

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return x


class Fading(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


class Mixing(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight / 20).tanh()


def two_byte_pairs() -> tuple[Alignment, Summing, Summing]:
    texts = [re.sub("[^ -~\n]", "e", text) for text in tiny_texts()]
    first, second = BytePairs(300).build(texts), BytePairs(420).build(texts[:40])
    ids = [number for text in texts for number in first.encode(text).ids]
    tokens = torch.tensor(ids[: 40 * 120]).view(40, 120)  # several batches, of different lengths on the two sides
    decoded, spans = texts_of(tokens, first)
    alignment = align(Tokenized(tokens, spans), Tokenized(*encoded(decoded, second)), decoded)
    return alignment, Summing(first), Summing(second)


def test_one_net_in_two_tokenizations_is_the_same_where_they_meet() -> None:
    alignment, a, b = two_byte_pairs()
    measures = [CKA(), Procrustes(), MutualKNN(k=5)]
    n_units = len(alignment.rows) // 2
    table = compare(a, b, alignment, "blocks.*.resid_post", measures, pairs="matched", n_units=n_units)
    rows = table.to_pylist()
    assert len(rows) == 6
    for row in rows:
        assert row["dissimilarity"] == pytest.approx(0, abs=1e-6), row
        assert row["measure"] == "mutual_knn_5" or row["n_samples"] == alignment.units * len(alignment.rows)
        assert row["stderr"] < 1e-6
        assert row["null"] < 0.9 or row["measure"] == "procrustes"
    assert 0.2 < alignment.share_a < 1 and alignment.share_b > alignment.share_a
    # Position by position they differ.
    length = min(alignment.a.tokens.shape[1], alignment.b.tokens.shape[1])
    samples = []
    for net, reading in ((a, alignment.a), (b, alignment.b)):
        with capture(net, "blocks.1.resid_post") as acts:
            net(reading.tokens[:, :length])
        samples.append(acts["blocks.1.resid_post"].flatten(0, 1))
    assert float(CKA().value(*samples)) < 0.9


def test_exchanging_the_models_transposes_the_table_and_control_applies_to_units() -> None:
    alignment, a, b = two_byte_pairs()
    control = Control(skip_first=2, drop_top_norm=1, normalize="unit_norm")
    forward = compare(a, b, alignment, "blocks.*.resid_post", [CKA()], control=control).to_pylist()
    backward = compare(b, a, alignment.swapped(), "blocks.*.resid_post", [CKA()], control=control).to_pylist()
    values = {(row["site_b"], row["site_a"]): row["value"] for row in backward}
    for row in forward:
        assert row["value"] == pytest.approx(values[row["site_a"], row["site_b"]], abs=1e-9)
        assert row["n_samples"] == (alignment.units - 3) * len(alignment.rows)


def test_padding_changes_no_activation() -> None:
    """An encoder reads the mask: a text alone, without padding, gives the same samples."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    tokenizer = word_pieces()
    size = {"vocab_size": tokenizer.get_vocab_size(), "hidden_size": 16, "intermediate_size": 32}
    net = transformers.BertModel(transformers.BertConfig(num_hidden_layers=2, num_attention_heads=2, **size)).eval()
    texts = ["one two three", "a longer text of many more words than the first one has"]
    side = Tokenized(*encoded(texts, tokenizer))
    reading = align(side, side, texts, "token").a
    assert reading.mask is not None and not reading.mask.all()
    with capture(net, "blocks.1.resid_post") as acts:
        reading.run(net, slice(0, 2), torch.device("cpu"))
    units = reading.units(acts["blocks.1.resid_post"], slice(0, 2))
    with capture(net, "blocks.1.resid_post") as acts:
        net(torch.tensor([tokenizer.encode(texts[0]).ids]))
    torch.testing.assert_close(units[:1], acts["blocks.1.resid_post"][:, reading.last[0]], atol=1e-5, rtol=1e-5)


def test_a_text_without_words_is_left_out_of_few() -> None:
    texts = ["to be or", "|   |   |", "not to be", "is it so"]
    words = [[match.span() for match in re.finditer(r"\S+", text)] for text in texts]
    side = Tokenized(torch.ones(4, 3, dtype=torch.long), torch.tensor(words))
    alignment = align(side, side, texts)
    assert (alignment.rows, alignment.units) == ((0, 2, 3), 3)


def test_texts_that_cannot_be_aligned_are_rejected(tmp_path: Any) -> None:
    alignment, a, b = two_byte_pairs()
    *layers, outputs = compare(a, b, alignment, measures=[CKA(), KL()]).to_pylist()
    assert len(layers) == 4 and "kl compares predictions token by token" in outputs["note"]
    with pytest.raises(ValueError, match="aligned while they run, and these are saved activations"):
        compare(a, {"blocks.0.resid_post": torch.randn(4, 3, 2)}, alignment)
    spans = [(0, 1), (1, 2)]
    with pytest.raises(ValueError, match="expected the same texts on both sides, found 3 texts, 2 and 2 rows"):
        align(tokenized(spans), tokenized(spans), ["ab"] * 3)
    with pytest.raises(ValueError, match="no common boundary at the end of a word in 2 of the 2 texts"):
        align(tokenized(spans), tokenized(spans), ["..", ".."])
    with pytest.raises(ValueError, match="expected a unit of word or token and take last or mean, found 'line'"):
        align(tokenized(spans), tokenized(spans), ["ab"] * 2, "line")  # pyright: ignore


@pytest.fixture(autouse=True)
def _shapes(unchecked: None) -> None:
    """Rejections in the words that users see."""
