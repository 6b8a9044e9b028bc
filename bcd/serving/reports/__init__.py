"""A case as a document: CSV and PDF."""
