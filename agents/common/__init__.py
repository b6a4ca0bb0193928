"""What several methods share: allocation under a budget, response models, estimators, files."""
