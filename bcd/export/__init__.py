"""Export: a checkpoint as one file that answers without bcd's code."""
