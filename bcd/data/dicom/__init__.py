"""Reads DICOM files."""
