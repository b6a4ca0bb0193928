"""One decision at a time: uplift models, decision-focused losses, clusters, their metrics."""
