"""Benchmarks: `python -m benchmarks NAME ...` prints ratios that were measured interleaved in one run."""
