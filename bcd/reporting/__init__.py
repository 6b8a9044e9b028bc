"""Rendering of results as HTML, Markdown, figures and tables; computes nothing itself."""
