"""Evaluation, comparison and prediction with checkpoints, without the training run."""
