"""A release: one model from all images, judged on answers for images its members have not seen."""
