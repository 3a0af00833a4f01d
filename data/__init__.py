"""Text to tokens to packed blocks: sources, tokenizers, the cache on disk, the order of batches and the probe set."""
