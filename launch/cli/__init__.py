"""The command line: composing, help, messages, sweeps."""
