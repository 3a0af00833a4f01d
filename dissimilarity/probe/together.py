"""How many tokens a model reads together. Whoever foresees the memory of a comparison needs them without torch."""

TOKENS_PER_BATCH = 4096
"""Tokens of a forward pass."""
TOKENS_PER_PASS = 1024
"""Tokens that pass a block together: enough to make reading its weights a small part of the time."""
