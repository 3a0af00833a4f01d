"""The kinds of measure: on moments, on samples, on neighbors, on model outputs; and the checks of their input."""
