"""Speed, measured: `python -m benchmarks NAME ...` prints ratios that were taken interleaved in one run."""
