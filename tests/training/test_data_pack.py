"""Packing: the split, the round trip, the cache under interruption and under two processes, the unigram baseline."""

import math
import multiprocessing
import os
import signal

import numpy as np
import pytest
from tokenizers import Tokenizer

from data.pack import in_validation, pack
from data.tokenizers import BytePairs, TokenizerFile
from tests.helpers.tiny_text import Texts, tiny_texts

SPEC = BytePairs(300)


def pieces(packed, split):
    """Return the decoded documents of a split."""
    tokens = packed.tokens[split].tolist()
    starts = [place for place, token in enumerate(tokens) if token == packed.meta["boundary_id"]]
    ends = [*starts[1:], len(tokens)]
    return [packed.tokenizer.decode(tokens[start + 1 : end]) for start, end in zip(starts, ends, strict=True)]


def test_every_document_comes_back_once_in_one_split_behind_a_boundary(tmp_path):
    texts = tiny_texts()
    packed = pack(Texts(texts), SPEC, str(tmp_path), 0.2)
    train, val = pieces(packed, "train"), pieces(packed, "val")
    assert packed.tokens["train"][0] == packed.tokens["val"][0] == packed.tokenizer.token_to_id("<|endoftext|>")
    assert train == [text for text in texts if not in_validation(text, 0.2)]
    assert val == [text for text in texts if in_validation(text, 0.2)]
    assert 20 < len(val) < 60
    assert packed.meta["train"] == {
        "documents": len(train),
        "tokens": len(packed.tokens["train"]),
        "bytes": sum(len(text.encode()) for text in train),
    }


def test_split_follows_the_text_not_the_place(tmp_path):
    texts = tiny_texts()
    forward = pack(Texts(texts), SPEC, str(tmp_path), 0.2)
    backward = pack(Texts(texts[::-1]), SPEC, str(tmp_path), 0.2)
    assert sorted(pieces(forward, "val")) == sorted(pieces(backward, "val"))
    assert forward.folder != backward.folder
    fewer = pack(Texts(texts[50:]), SPEC, str(tmp_path), 0.2)
    assert set(pieces(fewer, "val")) <= set(pieces(forward, "val"))


def test_copies_of_a_text_stay_in_one_split(tmp_path):
    packed = pack(Texts(tiny_texts(40) * 3), SPEC, str(tmp_path), 0.2)
    assert not set(pieces(packed, "train")) & set(pieces(packed, "val"))


def test_tokenizer_never_sees_validation_text(tmp_path):
    texts = tiny_texts()
    seen = []

    class Watching(BytePairs):
        def build(self, documents):
            seen.extend(documents)
            return super().build(seen)

    pack(Texts(texts), Watching(300), str(tmp_path), 0.2)
    assert sorted(seen) == sorted(text for text in texts if not in_validation(text, 0.2))


def test_tokenizer_of_a_large_corpus_sees_an_even_sample(tmp_path):
    texts = tiny_texts(400)
    seen = []

    class Watching(BytePairs):
        sample_bytes = 20_000

        def build(self, documents):
            seen.extend(documents)
            return super().build(seen)

        def __init__(self) -> None:
            self.vocab_size = 300

    pack(Texts(texts), Watching(), str(tmp_path), 0.2)
    assert 15_000 < sum(len(text.encode()) for text in seen) <= 20_000
    places = [texts.index(text) for text in seen]
    assert min(places) < 50 and max(places) > 350 and 120 < np.mean(places) < 280


def test_text_that_spells_the_boundary_does_not_end_a_document(tmp_path):
    texts = [text + "<|endoftext|> goes on" for text in tiny_texts()]
    packed = pack(Texts(texts), SPEC, str(tmp_path), 0.2)
    assert sorted(pieces(packed, "train") + pieces(packed, "val")) == sorted(texts)


def test_half_a_surrogate_pair_is_replaced_and_empty_documents_are_skipped(tmp_path):
    packed = pack(Texts([*tiny_texts(), "", "broken \ud800 pair"]), SPEC, str(tmp_path), 0.2)
    texts = pieces(packed, "train") + pieces(packed, "val")
    assert "broken ? pair" in texts and len(texts) == 201


def test_unigram_loss_and_bytes_per_token_against_their_definitions(tmp_path):
    texts = tiny_texts()
    packed = pack(Texts(texts), SPEC, str(tmp_path), 0.2)
    train, val = packed.tokens["train"].tolist(), packed.tokens["val"].tolist()
    d_vocab = packed.meta["d_vocab"]
    probability = {token: (train.count(token) + 1) / (len(train) + d_vocab) for token in set(val)}
    assert packed.meta["unigram_loss"] == pytest.approx(-np.mean([math.log(probability[token]) for token in val]))
    val_bytes = sum(len(text.encode()) for text in texts if in_validation(text, 0.2))
    assert packed.meta["bytes_per_token"] == pytest.approx(val_bytes / len(val))


def test_warm_start_reads_nothing_and_gives_the_same(tmp_path):
    texts = tiny_texts()
    first = pack(Texts(texts), SPEC, str(tmp_path), 0.2)
    again = pack(Texts(texts, before=lambda number: pytest.fail("read again")), SPEC, str(tmp_path), 0.2)
    assert again.meta == first.meta
    for other in (pack(Texts(texts), BytePairs(301), str(tmp_path), 0.2), pack(Texts(texts), SPEC, str(tmp_path), 0.3)):
        assert other.meta["fingerprint"] != first.meta["fingerprint"]


def test_fingerprint_covers_tokens_and_tokenizer_not_where_they_came_from(tmp_path):
    texts = tiny_texts()
    first = pack(Texts(texts), SPEC, str(tmp_path / "one"), 0.2)
    copy = TokenizerFile(str(first.folder / "tokenizer.json"))
    assert pack(Texts(texts), copy, str(tmp_path / "two"), 0.2).meta["fingerprint"] == first.meta["fingerprint"]


@pytest.mark.parametrize("in_val", [False, True])
def test_fingerprint_changes_with_one_document_of_either_split(tmp_path, in_val):
    texts = tiny_texts()
    first = pack(Texts(texts), SPEC, str(tmp_path), 0.2)
    fixed = TokenizerFile(str(first.folder / "tokenizer.json"))
    other = next(text for text in tiny_texts(seed=1) if in_validation(text, 0.2) == in_val)
    changed = pack(Texts([*texts, other]), fixed, str(tmp_path), 0.2)
    assert changed.meta["fingerprint"] != first.meta["fingerprint"]


def test_fingerprint_changes_with_a_token_that_no_text_uses(tmp_path):
    first = pack(Texts(tiny_texts()), SPEC, str(tmp_path), 0.2)
    tokenizer = Tokenizer.from_str(first.tokenizer.to_str())
    tokenizer.add_tokens(["never written"])
    tokenizer.save(str(tmp_path / "more.json"))
    more = pack(Texts(tiny_texts()), TokenizerFile(str(tmp_path / "more.json")), str(tmp_path), 0.2)
    assert more.tokens["train"].tolist() == first.tokens["train"].tolist()
    assert more.meta["fingerprint"] != first.meta["fingerprint"]


def test_large_vocabularies_take_four_bytes(tmp_path):
    path = str(tmp_path / "tokenizer.json")
    tokenizer = BytePairs(300).build(tiny_texts())
    tokenizer.add_tokens([f"rare{number}" for number in range(1 << 16)])
    tokenizer.save(path)
    texts = [text + f"rare{(1 << 16) - 1}" for text in tiny_texts(40)]
    packed = pack(Texts(texts), TokenizerFile(path), str(tmp_path), 0.2)
    assert packed.tokens["train"].dtype == np.uint32
    assert packed.tokens["train"].max() == packed.meta["d_vocab"] - 1 == 300 + (1 << 16) - 1
    assert sorted(pieces(packed, "train") + pieces(packed, "val")) == sorted(texts)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_interrupted_packing_leaves_nothing(tmp_path, stop):
    texts = tiny_texts()
    calls = []

    def interrupt(number: int) -> None:
        calls.append(number)
        if len(calls) == 300:
            raise stop

    with pytest.raises(stop):
        pack(Texts(texts, before=interrupt), SPEC, str(tmp_path), 0.2)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    assert pack(Texts(texts), SPEC, str(tmp_path), 0.2).meta["train"]["documents"] > 100


def killed_while_packing(cache_dir: str) -> None:
    calls = []

    def kill(number: int) -> None:
        calls.append(number)
        if len(calls) == 300:
            os.kill(os.getpid(), signal.SIGKILL)

    pack(Texts(tiny_texts(), before=kill), SPEC, cache_dir, 0.2)


def packed_beside_others(cache_dir: str, log: str, barrier) -> None:
    def note(number: int) -> None:
        if number == 0:
            with open(log, "a") as stream:
                stream.write(f"{os.getpid()}\n")

    barrier.wait()
    pack(Texts(tiny_texts(), before=note), SPEC, cache_dir, 0.2)


def test_a_killed_process_leaves_nothing_that_counts(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=killed_while_packing, args=(str(tmp_path),))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
    packed = pack(Texts(tiny_texts()), SPEC, str(tmp_path), 0.2)
    assert packed.meta["train"]["documents"] + packed.meta["val"]["documents"] == 200
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_processes_that_start_together_pack_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    log = tmp_path / "log"
    arguments = (str(tmp_path / "cache"), str(log), barrier)
    processes = [context.Process(target=packed_beside_others, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(set(log.read_text().split())) == 1
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1


def test_a_split_without_documents_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"found 1 for training and 0 for validation.*data.val_fraction=0.3"):
        pack(Texts(["only one"]), SPEC, str(tmp_path), 0.001)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    with pytest.raises(ValueError, match="0 < data.val_fraction < 1, found 1"):
        pack(Texts(["only one"]), SPEC, str(tmp_path), 1.0)


def test_text_without_a_validation_split_is_packed_whole(tmp_path):
    """The probe of a study may be one short document; it has no part that must be held out from a training."""
    source = Texts(["one two three four five six"])
    with pytest.raises(ValueError, match="expected documents in both splits"):
        pack(source, BytePairs(300), str(tmp_path), 0.5)
    packed = pack(source, BytePairs(300), str(tmp_path), None)
    again = pack(source, BytePairs(300), str(tmp_path), None)
    assert packed.tokenizer.decode(packed.tokens["train"][1:].tolist()) == source.texts[0]
    assert len(again.tokens["val"]) == 0 and again.meta["fingerprint"] == packed.meta["fingerprint"]
    with pytest.raises(ValueError, match="expected documents, found none"):
        pack(Texts([""]), BytePairs(300), str(tmp_path), None)
