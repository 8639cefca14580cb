"""A synthetic picture world with exact ground truth, drawn by rule; the embedded default and test ground."""
