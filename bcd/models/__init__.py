"""The network (backbone and head), and the LightningModule that trains it."""
