"""Splits: stratified, grouped and blocked, and the groups behind them."""
