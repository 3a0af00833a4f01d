"""The text of token sequences, and the same text in the tokens of another model."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int64
from tokenizers import Tokenizer
from torch import Tensor

from dissimilarity.loading.untrusted import panics_as_errors, prepare

BETWEEN = "\n\n"
"""Text that stands for a token without text, such as the end of a document, in the tokens of another model."""
PADDING = ("[PAD]", "<pad>", "<|padding|>", "<|pad|>", "<|endoftext|>", "</s>")


@panics_as_errors("the tokenizer of the probe set is broken")
def texts_of(
    tokens: Int64[Tensor, "sequences length"], tokenizer: Tokenizer
) -> tuple[list[str], Int64[Tensor, "sequences length 2"]]:
    """Return the text of each sequence, and where each of its tokens starts and ends in that text, in characters.

    Tokens stay as they are. They may begin in the middle of a word, where encoding the text would give other tokens. A
    token that ends within a character of several bytes counts as ending where the character ends. A token without text,
    such as that between documents, has equal start and end, and a blank line stands for it.
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
    """Return the text of some tokens, and where each of them ends.

    A token ends where the text of all tokens up to it ends, if the whole text begins with that text; half a character
    does not.
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
    """Return texts in the tokens of a model, with those that begin and end a text, padded at the end.

    Returns:
        The tokens; where each starts and ends in its text, in characters (equal for a token without text); and which
        are tokens rather than padding.
    """
    tokenizer = prepare(Tokenizer.from_str(tokenizer.to_str()))
    encodings = tokenizer.encode_batch(list(texts))
    length = max(1, *(len(encoding.ids) for encoding in encodings))
    tokens = torch.full((len(texts), length), _padding(tokenizer))
    spans = torch.zeros(len(texts), length, 2, dtype=torch.int64)
    mask = torch.zeros(len(texts), length, dtype=torch.bool)
    for row, encoding in enumerate(encodings):
        count = len(encoding.ids)
        tokens[row, :count] = torch.tensor(encoding.ids, dtype=torch.int64)
        offsets = torch.tensor(encoding.offsets, dtype=torch.int64).reshape(-1, 2)
        is_special = torch.tensor(encoding.special_tokens_mask).bool()
        spans[row, :count] = offsets.masked_fill(is_special[:, None], 0)
        mask[row, :count] = True
    return tokens, spans, mask


def _padding(tokenizer: Tokenizer) -> int:
    """Return the token to pad sequences with."""
    numbers = (tokenizer.token_to_id(name) for name in PADDING)
    return next((number for number in numbers if number is not None), 0)
