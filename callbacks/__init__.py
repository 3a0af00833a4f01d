"""What a run of this project adds to Lightning: trackers, checkpoints, loggers, signals, console."""
