"""From a checkpoint to answers: needs the file and the pictures, nothing of the training run."""
