"""From results to tables, statistics and verdicts."""
