"""Tests of reading DICOM files."""
