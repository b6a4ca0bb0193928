"""Trials of one decision per user: data, protocols, tables."""
