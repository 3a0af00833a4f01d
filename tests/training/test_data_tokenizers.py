"""Tokenizers: determinism, exact decoding, published files and their boundary tokens."""

import json

import pytest
from tokenizers import Tokenizer, models

from data.tokenizers import (
    END_OF_TEXT,
    BytePairs,
    HubTokenizer,
    TokenizerFile,
    boundary_id,
    vocabulary_size,
)
from dissimilarity.loading.texts import prepare
from tests.helpers.tiny_text import tiny_texts


def test_byte_pairs_are_the_same_for_any_order_of_the_same_documents():
    texts = tiny_texts()
    first, second = BytePairs(400).build(iter(texts)), BytePairs(400).build(reversed(texts))
    assert first.to_str() == second.to_str()
    assert vocabulary_size(first) == 400
    assert first.id_to_token(boundary_id(first)) == END_OF_TEXT


@pytest.mark.parametrize("text", ["plain", " leading", "tab\t\r\nend ", "日本語 \U0001f600", "\x00\x7f"])
def test_byte_pairs_decode_to_any_text(text):
    tokenizer = BytePairs(300).build(tiny_texts(20))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_vocabulary_without_room_for_all_bytes_is_rejected():
    with pytest.raises(ValueError, match="vocab_size >= 257.*found 256"):
        BytePairs(256)


def test_a_file_is_read_as_it_is_and_follows_its_contents(tmp_path):
    path = str(tmp_path / "tokenizer.json")
    BytePairs(300).build(tiny_texts(20)).save(path)
    spec = TokenizerFile(path)
    assert vocabulary_size(spec.build([])) == 300
    before = spec.fingerprint()
    BytePairs(301).build(tiny_texts(20)).save(path)
    assert spec.fingerprint() != before


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="tokenizer.json at .*none.json, found no file"):
        TokenizerFile(str(tmp_path / "none.json"))
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({"model": 3}))
    with pytest.raises(ValueError, match="broken.json"):
        TokenizerFile(str(broken)).build([])


def foreign(*special: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 7}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def test_boundary_of_foreign_tokenizers():
    for special in (["<s>", "</s>"], ["</s>", "<s>"], ["[SEP]", "<s>"]):
        tokenizer = foreign(*special)
        assert tokenizer.id_to_token(boundary_id(tokenizer)) == "<s>"
    tokenizer = foreign("</s>", END_OF_TEXT)
    assert tokenizer.id_to_token(boundary_id(tokenizer)) == END_OF_TEXT
    with pytest.raises(ValueError, match=r"found the special tokens \['<mask>', '<pad>'\]"):
        boundary_id(foreign("<pad>", "<mask>"))


def test_vocabulary_size_counts_holes():
    assert vocabulary_size(foreign()) == 8


def test_truncation_of_a_published_file_is_turned_off():
    tokenizer = foreign()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=4)
    assert len(prepare(tokenizer).encode(["a"] * 9, is_pretokenized=True).ids) == 9


def test_hub_tokenizer_offline_says_what_needs_no_network(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="'no-one/nothing'.*data/tokenizer=bpe"):
        HubTokenizer("no-one/nothing").build([])
