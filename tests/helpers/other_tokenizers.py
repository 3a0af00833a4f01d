"""Models and tokenizers that are not ours, tiny and random, as others would save them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.helpers.tiny_text import tiny_texts

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def word_pieces(vocab_size: int = 200) -> Tokenizer:
    """Return a tokenizer like BERT's: it lowercases, strips accents and white space, and frames a text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # pyright: ignore
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(tiny_texts(), trainer)
    frame = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    return tokenizer


def pieces_with_spaces(vocab_size: int = 300) -> Tokenizer:
    """Return a tokenizer like Llama's: byte pairs over text with a mark for each space and one in front."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=256 + vocab_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(tiny_texts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def bert(folder: Path, tokenizer: Tokenizer, **changes: Any) -> Path:
    """Return an encoder with random weights and its tokenizer, in a folder as `save_pretrained` writes it."""
    return _saved(folder, tokenizer, "BertConfig", "BertModel", **changes)


def llama(folder: Path, tokenizer: Tokenizer, **changes: Any) -> Path:
    """Return a decoder with random weights and its tokenizer."""
    return _saved(folder, tokenizer, "LlamaConfig", "LlamaForCausalLM", **changes)


def _saved(folder: Path, tokenizer: Tokenizer, config: str, kind: str, **changes: Any) -> Path:
    import transformers

    torch.manual_seed(0)
    sizes = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        **changes,
    }
    getattr(transformers, kind)(getattr(transformers, config)(**sizes)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
