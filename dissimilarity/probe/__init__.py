"""The probe set: which inputs are compared, which positions count, and how they are cut into batches."""
