"""The text of a probe set in the tokens of models with different tokenizers, and where their positions align."""

from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from dissimilarity.loading.context import context_of
from dissimilarity.loading.texts import encoded, texts_of
from dissimilarity.probe.alignment import Alignment, Tokenized, align
from models.references import Reference, tokenizer_hash


class ProbeText:
    """The text of a probe set.

    Args:
        tokens: The probe set.
        tokenizer: The tokenizer of these tokens.
        unit: As for `align`.
        take: As for `align`.
        mask: Which positions are text; None where all are, or where the models know by themselves.
    """

    def __init__(self, tokens: Tensor, tokenizer: Tokenizer, unit: Any, take: Any, mask: Tensor | None = None) -> None:
        self.unit, self.take = unit, take
        self.texts, spans = texts_of(tokens, tokenizer)
        self._read = {tokenizer_hash(tokenizer): Tokenized(tokens, spans, mask)}
        self._own = tokenizer_hash(tokenizer)
        self._aligned: dict[tuple[str, str], Alignment] = {}

    def aligned(self, first: Reference | None, second: Reference) -> Alignment:
        """Return the inputs of two models for this text, and which of their positions are compared.

        Args:
            first: A model with a tokenizer; None for the model whose tokens the probe set consists of.
            second: A model with a tokenizer.

        Raises:
            ValueError: If a model cannot read that many tokens, or the tokens have no common boundary.
        """
        first_read, second_read = (self._own if model is None else self._digest(model) for model in (first, second))
        if (first_read, second_read) not in self._aligned:
            try:
                alignment = align(self._read[first_read], self._read[second_read], self.texts, self.unit, self.take)
            except ValueError as error:
                uris = [model.provenance["uri"] for model in (first, second) if model is not None]
                raise ValueError(f"{' and '.join(uris)}: {error}") from error
            self._aligned[first_read, second_read] = alignment
        return self._aligned[first_read, second_read]

    def _digest(self, reference: Reference) -> str:
        """Return the hash of a model's tokenizer, with which the text is encoded if it was not before."""
        assert reference.tokenizer is not None
        digest, uri = tokenizer_hash(reference.tokenizer), reference.provenance["uri"]
        if digest not in self._read:
            self._read[digest] = Tokenized(*encoded(self.texts, reference.tokenizer))
        length, most = self._read[digest].tokens.shape[1], context_of(reference.model)
        if most is not None and length > most:
            probe_length = self._read[self._own].tokens.shape[1]
            raise ValueError(
                f"{uri} reads at most {most} tokens, and the text of one probe sequence takes up to {length} of its "
                f"tokens; type probe.length={max(1, probe_length * most // length)} or less"
            )
        return digest


def alignment_summary(alignment: Alignment) -> dict[str, Any]:
    """Return what provenance.json records about an alignment."""
    return {
        "unit": alignment.unit,
        "take": alignment.a.take,
        "sequences": len(alignment.rows),
        "units": alignment.units,
        "share_a": round(alignment.share_a, 4),
        "share_b": round(alignment.share_b, 4),
    }
