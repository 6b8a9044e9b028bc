"""Networks: the backbones, and the classifier that wraps one."""
