"""Tests of what takes images of scanners."""
