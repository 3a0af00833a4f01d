"""What several studies share: inputs, trainings, resampling, results, formatting."""
