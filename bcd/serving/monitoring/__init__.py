"""Monitoring: figures over time, and alarms when referral or distances have changed."""
