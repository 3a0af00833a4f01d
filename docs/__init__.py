"""The documentation, and `python -m docs.figures`, which makes its pictures."""
