"""The feature bank: what the frozen prefix gives is computed once, kept, and fed ever after."""
