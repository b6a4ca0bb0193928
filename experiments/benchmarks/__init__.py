"""What `experiments.speed` measures."""
