"""The same allocation on more machines."""
