"""What train.py and analyze.py do around a training: run folder, machine's choices, messages, sweeps, summary."""
