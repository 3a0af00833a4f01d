"""One file per measure: its function and the class around it."""
