"""The game between prices and policies, and what mixtures of policies are worth."""
