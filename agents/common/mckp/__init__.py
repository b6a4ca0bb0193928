"""The multiple-choice knapsack solver in parts; `agents.common.knapsack` is its public face."""
