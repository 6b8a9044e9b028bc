"""What every request passes through: limits, headers, logs and metrics."""
