"""Results as DICOM objects: structured report, heat map and secondary capture. Needs highdicom."""
