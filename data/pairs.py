"""Encoding of texts and pairs of texts as rows of tokens of equal length."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from data.examples import Example
from data.tokenizers import boundary_id, vocabulary_size
from dissimilarity.loading.texts import prepare
from dissimilarity.loading.untrusted import panics_as_errors

# Names of the padding token in vocabularies.
PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>")


@dataclass(frozen=True)
class Encoded:
    """Rows of tokens.

    Attributes:
        tokens: Rows of tokens, padded on the right.
        truncated: Number of rows that lost tokens.
    """

    tokens: Int64[Tensor, "examples n_ctx"]
    truncated: int


class PairEncoder:
    """An encoder of examples as tokens, in one of two formats.

    A tokenizer with a format for pairs and a padding token, such as that of BERT, keeps its own format: [CLS] text
    [SEP] pair [SEP] [PAD] ... Any other tokenizer, including ours, uses `text E pair E` (or `text E`), where E is
    the token between documents, and pads with E: all tokens up to the first of the last run of E, inclusive, are real.
    Text that contains the name of such a token stays text.

    Args:
        tokenizer: Any tokenizer; it is copied, not changed.

    Attributes:
        tokenizer: The tokenizer without truncation and padding, for models and files.
        d_vocab: Number of token ids.
        pad: Id of the token that rows are padded with.
        end_is_pad: Whether the last token of a text is `pad` too.
        markers: Number of tokens that the format adds to a pair.

    Raises:
        ValueError: If the tokenizer has no token that could end a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = prepare(Tokenizer.from_str(tokenizer.to_str()))
        self.d_vocab = vocabulary_size(self.tokenizer)
        pads = [self.tokenizer.token_to_id(name) for name in PAD_TOKENS]
        self.end_is_pad = not self.tokenizer.num_special_tokens_to_add(True) or pads == [None] * len(pads)
        if self.end_is_pad:
            self.pad = boundary_id(self.tokenizer)
        else:
            self.pad = next(pad for pad in pads if pad is not None)
        self.markers = 2 if self.end_is_pad else self.tokenizer.num_special_tokens_to_add(True)

    def encode(self, examples: Sequence[Example], n_ctx: int) -> Encoded:
        """Return one row of n_ctx tokens per example.

        If a pair does not fit, the longer text loses its last token until it does. Of two equally long texts, the one
        that was shorter at first loses it, or the first one if they were always equal.

        Raises:
            ValueError: If n_ctx has no room for a token of each text.
        """
        if n_ctx < self.markers + 2:
            raise ValueError(
                f"expected room for {self.markers} tokens around and between two texts and one of each, found rows of "
                f"{n_ctx} tokens: type data.n_ctx=64 and probe.length=64"
            )
        # A copy, because truncation and format hold for these rows only.
        encoder = Tokenizer.from_str(self.tokenizer.to_str())
        encoder.encode_special_tokens = True
        if self.end_is_pad:
            end = self.tokenizer.id_to_token(self.pad)
            encoder.post_processor = TemplateProcessing(
                single=["$A", end], pair=["$A", end, "$B", end], special_tokens=[(end, self.pad)]
            )
        encoder.enable_truncation(n_ctx, strategy="longest_first")
        encoder.enable_padding(length=n_ctx, pad_id=self.pad)
        texts = [example.text if example.pair is None else (example.text, example.pair) for example in examples]
        with panics_as_errors("the tokenizer is broken"):
            encodings = encoder.encode_batch(texts)
        tokens = np.array([encoding.ids for encoding in encodings], dtype=np.int64).reshape(len(examples), n_ctx)
        return Encoded(torch.from_numpy(tokens), sum(bool(encoding.overflowing) for encoding in encodings))
