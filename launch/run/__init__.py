"""A run and its folder: lock, provenance, references, start and end."""
