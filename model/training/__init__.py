"""Training: the step, the optimizer, pipeline stages, the loop."""
