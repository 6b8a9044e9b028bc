"""What everything says that leaves bcd: answers, reports, pages and DICOM objects."""

DISCLAIMER = "For research only. Not a diagnosis."
