"""Images that scanners deliver: folders that they write to, and a DICOM node."""
