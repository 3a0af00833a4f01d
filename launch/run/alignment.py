"""The text behind a probe set, as models of other tokenizers read it, and where theirs and the probe's tokens meet."""

from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from data.texts import encoded, texts_of
from dissimilarity.probe.alignment import Alignment, Tokenized, align
from models.references import Reference, tokenizer_hash


class ProbeText:
    """The text of a probe set.

    Args:
        tokens: the probe set.
        tokenizer: whose tokens those are.
        unit, take: as for `align`.
    """

    def __init__(self, tokens: Tensor, tokenizer: Tokenizer, unit: Any, take: Any) -> None:
        self.unit, self.take = unit, take
        self.texts, spans = texts_of(tokens, tokenizer)
        self._read = {tokenizer_hash(tokenizer): Tokenized(tokens, spans)}
        self._own = tokenizer_hash(tokenizer)
        self._aligned: dict[tuple[str, str], Alignment] = {}

    def aligned(self, first: Reference | None, second: Reference) -> Alignment:
        """What two models are given of the text, and which of their positions are compared.

        Args:
            first: None stands for the model whose tokens the probe set is made of.
            second: a model with a tokenizer.

        Raises:
            ValueError: a model that cannot read as much, or tokens without a common boundary.
        """
        first_read, second_read = (self._own if each is None else self._digest(each) for each in (first, second))
        if (first_read, second_read) not in self._aligned:
            try:
                found = align(self._read[first_read], self._read[second_read], self.texts, self.unit, self.take)
            except ValueError as error:
                uris = [each.provenance["uri"] for each in (first, second) if each is not None]
                raise ValueError(f"{' and '.join(uris)}: {error}") from error
            self._aligned[first_read, second_read] = found
        return self._aligned[first_read, second_read]

    def _digest(self, reference: Reference) -> str:
        """The tokenizer of a model, which has then read the text."""
        assert reference.tokenizer is not None
        digest, uri = tokenizer_hash(reference.tokenizer), reference.provenance["uri"]
        if digest not in self._read:
            self._read[digest] = Tokenized(*encoded(self.texts, reference.tokenizer))
        length, most = self._read[digest].tokens.shape[1], context_of(reference.model)
        if most is not None and length > most:
            own = self._read[self._own].tokens.shape[1]
            raise ValueError(
                f"{uri} reads at most {most} of its tokens, and takes up to {length} of them for the text of one "
                f"sequence of the probe set; type probe.length={max(1, own * most // length)} or less"
            )
        return digest


def alignment_summary(alignment: Alignment) -> dict[str, Any]:
    """What provenance.json says of an alignment."""
    return {
        "unit": alignment.unit,
        "take": alignment.a.take,
        "sequences": len(alignment.kept),
        "units": alignment.units,
        "share_a": round(alignment.share_a, 4),
        "share_b": round(alignment.share_b, 4),
    }


def context_of(model: Any) -> int | None:
    """How many tokens a model can read at once, where it says so."""
    config = getattr(model, "config", None)
    found = (getattr(of, key, None) for of in (model, config) for key in ("n_ctx", "max_position_embeddings"))
    return next((most for most in found if isinstance(most, int)), None)
