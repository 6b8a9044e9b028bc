"""Training runs: fit, choose the checkpoint, evaluate, write the run folder."""
