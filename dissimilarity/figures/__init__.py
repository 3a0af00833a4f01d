"""Figures, drawn with matplotlib from the tables."""
