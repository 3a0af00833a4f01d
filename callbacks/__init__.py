"""Thin Lightning adapters round the instrument: the tracker, checkpoints on a schedule, loggers, the console."""
