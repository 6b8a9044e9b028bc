"""Results for the systems of a hospital: DICOM objects and FHIR resources."""
