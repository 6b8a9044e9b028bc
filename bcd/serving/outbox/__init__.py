"""Posts cases to a FHIR server: nothing lost, nothing doubled, a later version always last."""
