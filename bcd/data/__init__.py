"""Images: where they are, which are usable, who trains on them, and how they are varied."""
