"""One file a measure: its function and its class together."""
