"""What is learned from a log about the future: outcomes, action values, best responses."""
