"""What models are compared on: which inputs, which positions count, and how they are cut into batches."""
