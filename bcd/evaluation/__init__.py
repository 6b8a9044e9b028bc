"""What a model's answers are worth: figures, tables, images, the report."""
