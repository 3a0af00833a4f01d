"""Tokenizers that are trained on the training split, read from a file, or downloaded from the Hugging Face hub."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dissimilarity.loading.untrusted import load_tokenizer
from dissimilarity.tables.files import sha256_of

END_OF_TEXT = "<|endoftext|>"
# Names of the token between documents; those that begin a text come before those that end one.
BOUNDARY_TOKENS = (
    "<|BOS|>",
    END_OF_TEXT,
    "<|begin_of_text|>",
    "<s>",
    "<bos>",
    "[CLS]",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "[SEP]",
)

# Training text per entry of the vocabulary: 8 MB for 4096 entries.
BYTES_PER_ENTRY = 2048


@runtime_checkable
class TokenizerSpec(Protocol):
    """The specification of a tokenizer, from which packing obtains it.

    Attributes:
        sample_bytes: Amount of training text that it needs.
    """

    sample_bytes: int

    def fingerprint(self) -> str:
        """Return a string that changes whenever the tokenizer changes."""
        ...

    def build(self, documents: Iterable[str]) -> Tokenizer:
        """Return the tokenizer; `documents` is a sample of the training split, read only if it is trained."""
        ...


class BytePairs:
    """Byte-level byte-pair encoding trained on the training split (Sennrich et al. 2016; bytes as in GPT-2).

    Equal documents give equal merges. Any text can be encoded and decodes to itself.

    Args:
        vocab_size: Number of tokens, at least 257: 256 bytes and `<|endoftext|>`. A corpus with few different words
            gives fewer.

    Raises:
        ValueError: If vocab_size is below 257.
    """

    def __init__(self, vocab_size: int = 4096) -> None:
        if vocab_size < 257:
            raise ValueError(
                f"expected data.tokenizer.vocab_size >= 257 (256 bytes and {END_OF_TEXT}), found {vocab_size}"
            )
        self.vocab_size = vocab_size
        self.sample_bytes = vocab_size * BYTES_PER_ENTRY

    def fingerprint(self) -> str:
        """Return the recipe."""
        return f"byte-pairs:{self.vocab_size}:{self.sample_bytes}"

    def build(self, documents: Iterable[str]) -> Tokenizer:
        """Train on `documents`."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(documents, trainer)
        return tokenizer


class TokenizerFile:
    """A tokenizer.json written by the library `tokenizers`, such as the one in every run folder.

    Raises:
        ValueError: If the file is missing or is not a tokenizer.
    """

    def __init__(self, path: str) -> None:
        if not Path(path).is_file():
            raise ValueError(f"expected a tokenizer.json at data.tokenizer.path={path}, found no file there")
        self.path = path
        self.sample_bytes = 0

    def fingerprint(self) -> str:
        """Return the sha256 of the file."""
        return f"file:{sha256_of(Path(self.path))}"

    def build(self, documents: Iterable[str]) -> Tokenizer:
        """Read the file."""
        return load_tokenizer(
            lambda: Tokenizer.from_file(self.path),
            f"expected a tokenizer.json at data.tokenizer.path={self.path}, found",
        )


class HubTokenizer:
    """The tokenizer of a model on the Hugging Face hub, by name.

    Raises:
        ValueError: From build, if the hub cannot be reached or the model has no tokenizer.json.
    """

    def __init__(self, name: str, revision: str = "main") -> None:
        self.name = name
        self.revision = revision
        self.sample_bytes = 0

    def fingerprint(self) -> str:
        """Return the request, so that a cached tokenizer needs no network."""
        return f"hub:{self.name}@{self.revision}"

    def build(self, documents: Iterable[str]) -> Tokenizer:
        """Download the tokenizer, or read it from the cache of the hub."""
        try:
            return load_tokenizer(lambda: Tokenizer.from_pretrained(self.name, revision=self.revision), "it has none")
        # The exceptions of network, offline mode, missing repositories and parsing share no base class.
        except Exception as error:
            raise ValueError(
                f"could not get the tokenizer {self.name!r} (revision {self.revision!r}) from the Hugging Face hub: "
                f"{error} Without a network use data/tokenizer=bpe (the default) or data/tokenizer=file "
                f"data.tokenizer.path=tokenizer.json"
            ) from error


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Return d_vocab, the largest id plus one, because some vocabularies skip ids."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def boundary_id(tokenizer: Tokenizer) -> int:
    """Return the id of the token that starts every document.

    Our tokenizers have `<|endoftext|>`. Others may lack it or also have `<|BOS|>` (the toy models of TransformerLens),
    and their files do not tell which token begins or ends a text. The first of these names that a tokenizer has is
    therefore used: `<|BOS|>`, `<|endoftext|>`, `<|begin_of_text|>`, `<s>`, `<bos>`, `[CLS]`,
    then `<|end_of_text|>`, `</s>`, `<eos>`, `[SEP]`.

    Raises:
        ValueError: If it has none of these names; lists its special tokens.
    """
    for name in BOUNDARY_TOKENS:
        token_id = tokenizer.token_to_id(name)
        if token_id is not None:
            return token_id
    special = sorted(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
    raise ValueError(
        f"expected a tokenizer with one of {', '.join(BOUNDARY_TOKENS)} to start documents with, found the special "
        f"tokens {special}: add {END_OF_TEXT} to its added_tokens, or use data/tokenizer=bpe"
    )
