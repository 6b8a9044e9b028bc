"""Answers about uploaded images: queue, model, explanations, checks at the start."""
