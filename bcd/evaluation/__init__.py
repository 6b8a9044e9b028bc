"""Evaluation: metrics, intervals, calibration, decision policy, robustness, comparison."""
