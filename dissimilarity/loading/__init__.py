"""Load models that others made: Hugging Face folders, the hub, GGUF files."""
