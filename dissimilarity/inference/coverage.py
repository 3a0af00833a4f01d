"""When there are intervals, and what each kind covers and does not, in one sentence for figures, summaries and pages.

An interval answers one question: what could have come out differently? Whatever shows an interval takes its sentence
from here.
"""

FEWEST_MODELS = 5
"""Models per side below which there is neither an interval over models nor a verdict."""
FEWEST_REFERENCES = 3
"""References per group below which there is neither an interval over references nor a verdict."""
PROBE_TEXT = (
    "95% intervals cover other text of this kind for these two models, but not other seeds or other kinds of text."
)
"""Intervals over units of the probe set."""
SAMPLES = (
    "95% intervals cover other samples of this kind for these two representations, but not other kinds of samples or "
    "other seeds of what made them."
)
"""Intervals over units of saved activations, which need not be of text or of models."""
FIRST_TICK = (
    "Changes since the first tick (paired over text, Holm at 5% per curve) hold for other text of this kind in "
    "this one training, but not for other seeds or other kinds of text."
)
"""The first step at which a curve differs from its first tick."""
HELD_OUT_TEXT = (
    "95% intervals cover other held-out text of this kind for these two models and this fit, but not other seeds "
    "or other kinds of text."
)
"""Intervals of penalties over held-out sequences."""
REFERENCES = (
    "95% intervals cover other references of these groups and other text of this kind for this one model, but not "
    "other seeds of it or other groups."
)
"""Intervals over the references of a group."""
SEEDS = (
    "95% intervals cover other seeds of these models on this text, but not other text, families, sizes or "
    "training data."
)
"""Intervals over models or runs that differ in their seeds."""
FINE_TUNINGS = "95% intervals cover other fine-tunings of this kind on this text, but not other text or other tasks."
"""Intervals over fine-tuned models."""
PAIRS = "Bands hold the middle 95% of the pairs of models; they are not intervals for other models or other text."
"""Bands that show how pairs of models differ."""
CHECKPOINTS = "Bars join the checkpoints on both sides; they do not cover other seeds or other text."
"""Bars that show how exactly checkpoints place a step."""
