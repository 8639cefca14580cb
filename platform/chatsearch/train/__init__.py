"""Training with Ray Train and DeepSpeed."""
