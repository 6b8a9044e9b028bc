"""Explanations: where in an image the evidence for an answer is, and checks of such maps."""
