"""Conversions between our transformer and the forms of other libraries, with equal logits."""

from models.exchange.huggingface import from_huggingface, to_huggingface
from models.exchange.transformer_lens import from_transformer_lens, to_transformer_lens

__all__ = ["from_huggingface", "from_transformer_lens", "to_huggingface", "to_transformer_lens"]
