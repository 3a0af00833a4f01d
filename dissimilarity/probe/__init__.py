"""The probe set on which models are compared: inputs, positions that count, and batches."""
