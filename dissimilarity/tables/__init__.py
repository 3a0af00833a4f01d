"""Tables on disk: the append-only journal, the curves, the drift toward reference groups."""
