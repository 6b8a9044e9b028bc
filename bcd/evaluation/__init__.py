"""What a model's answers are worth: figures, tables, pictures, the report."""
