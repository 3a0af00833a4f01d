"""Texts and pairs of texts to rows of tokens of one length."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from data.examples import Example
from data.tokenizers import boundary_id, prepare, vocabulary_size
from dissimilarity.loading.untrusted import panics_as_errors

# What vocabularies call the token that fills up rows.
PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>")


@dataclass(frozen=True)
class Encoded:
    """Rows of tokens.

    Attributes:
        tokens: padded on the right.
        truncated: number of rows that lost tokens.
    """

    tokens: Int64[Tensor, "examples n_ctx"]
    truncated: int


class PairEncoder:
    """Turns examples into tokens, in one of two formats.

    A tokenizer that frames pairs itself and has a token to pad with, such as BERT's, keeps its own format: [CLS] text
    [SEP] pair [SEP] [PAD] ... Any other, ours among them, gets `text E pair E` (or `text E`), where E is the token
    between documents, and is padded with E: what is real are all tokens up to and including the first of the last run
    of E. Text that spells such a token is text.

    Args:
        tokenizer: any; it is copied, not changed.

    Attributes:
        tokenizer: the tokenizer without truncation and padding, as models and files are to see it.
        d_vocab: number of token ids.
        pad: id of the token that rows are filled up with.
        end_is_pad: whether the text's own last token is `pad` too.
        markers: number of tokens that the format adds to a pair.

    Raises:
        ValueError: a tokenizer with no token that could end a text.
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
        """Return a row of n_ctx tokens for each example.

        Where a pair does not fit, the longer of the two loses its last token until it does; when both are equally long
        the one that was shorter at first does, or the first of two that never differed.

        Raises:
            ValueError: n_ctx has no room for a token of each text.
        """
        if n_ctx < self.markers + 2:
            raise ValueError(
                f"expected room for {self.markers} tokens around and between two texts and one of each, found rows of "
                f"{n_ctx} tokens: type data.n_ctx=64 and probe.length=64"
            )
        # A copy: truncation belongs to this length, and the format to these rows.
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
