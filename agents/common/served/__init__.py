"""Saved models answer without torch, one user or a stream of them."""
