"""From a checkpoint to answers: needs the file and the images, nothing of the training run."""
