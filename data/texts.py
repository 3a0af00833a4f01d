"""The text behind token sequences, and the same text in the tokens of another model."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int64
from tokenizers import Tokenizer
from torch import Tensor

from data.tokenizers import prepare
from dissimilarity.loading.untrusted import panics_as_errors

BETWEEN = "\n\n"
"""What a token without text (the end of a document) inside a sequence is to another model, whose tokens lack it."""
PADDING = ("[PAD]", "<pad>", "<|padding|>", "<|pad|>", "<|endoftext|>", "</s>")


@panics_as_errors("the tokenizer of the probe set is broken")
def texts_of(
    tokens: Int64[Tensor, "sequences length"], tokenizer: Tokenizer
) -> tuple[list[str], Int64[Tensor, "sequences length 2"]]:
    """The text of each sequence, and where each of its tokens starts and ends in it, in characters.

    The tokens are kept as they are: they may be cut in the middle of a word, so that encoding the text would give
    others. A token that ends inside a character (a byte of several) is said to end where the character does. One
    without text of its own, such as that between documents, has two equal numbers, and a blank line in its place.
    """
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    texts, spans = [], []
    for ids in tokens.tolist():
        text, places = "", []
        run: list[int] = []
        for number in [*ids, None]:
            if number is not None and number not in special:
                run.append(number)
                continue
            if run:
                text += BETWEEN if text else ""
                part, ends = _decoded(run, tokenizer)
                starts = [0, *ends[:-1]]
                places += [(len(text) + start, len(text) + end) for start, end in zip(starts, ends, strict=True)]
                text, run = text + part, []
            if number is not None:
                places.append((len(text), len(text)))
        texts.append(text)
        spans.append(places)
    return texts, torch.tensor(spans, dtype=torch.int64)


def _decoded(ids: list[int], tokenizer: Tokenizer) -> tuple[str, list[int]]:
    """The text of some tokens, and where each of them ends.

    A token ends where the text of all tokens up to it does, if that is how the whole begins: half a character is not.
    """
    beginnings = tokenizer.decode_batch([ids[: index + 1] for index in range(len(ids))])
    text, ends, end = beginnings[-1], [], len(beginnings[-1])
    for beginning in reversed(beginnings):
        if text.startswith(beginning):
            end = min(end, len(beginning))
        ends.append(end)
    return text, ends[::-1]


@panics_as_errors("the tokenizer of a model is broken")
def encoded(
    texts: Sequence[str], tokenizer: Tokenizer
) -> tuple[Int64[Tensor, "sequences length"], Int64[Tensor, "sequences length 2"], Bool[Tensor, "sequences length"]]:
    """Texts in a model's tokens, with those that it begins and ends a text with, padded at the end.

    Returns:
        the tokens; where each starts and ends in its text, in characters (equal for one without text); where there are
        tokens and not padding.
    """
    tokenizer = prepare(Tokenizer.from_str(tokenizer.to_str()))
    found = tokenizer.encode_batch(list(texts))
    length = max(1, *(len(each.ids) for each in found))
    tokens = torch.full((len(texts), length), _padding(tokenizer))
    spans = torch.zeros(len(texts), length, 2, dtype=torch.int64)
    mask = torch.zeros(len(texts), length, dtype=torch.bool)
    for row, each in enumerate(found):
        many = len(each.ids)
        tokens[row, :many] = torch.tensor(each.ids, dtype=torch.int64)
        of_text = torch.tensor(each.offsets, dtype=torch.int64).reshape(-1, 2)
        spans[row, :many] = of_text.masked_fill(torch.tensor(each.special_tokens_mask).bool()[:, None], 0)
        mask[row, :many] = True
    return tokens, spans, mask


def _padding(tokenizer: Tokenizer) -> int:
    """The number to fill up sequences with."""
    known = (tokenizer.token_to_id(name) for name in PADDING)
    return next((number for number in known if number is not None), 0)
