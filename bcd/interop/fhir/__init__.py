"""A case as FHIR resources (R4B, whose resources used here are those of R4)."""
