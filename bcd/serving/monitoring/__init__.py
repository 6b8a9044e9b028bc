"""Figures over time: referral, overrides, and drift of the images."""
