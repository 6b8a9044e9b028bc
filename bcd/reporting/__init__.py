"""Rendering only: HTML, Markdown and figures of what was computed elsewhere."""
