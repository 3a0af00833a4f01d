"""Compare two models or many: a model's activations on the probe set, and every measure at every pair of sites."""
