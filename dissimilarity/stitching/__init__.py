"""Stitching: a map from a site of a front model into a site of a back model, and the loss that it costs."""
