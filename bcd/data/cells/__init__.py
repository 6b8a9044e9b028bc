"""White cells: where they lie, what they measure, and the regions of a smear around them."""
