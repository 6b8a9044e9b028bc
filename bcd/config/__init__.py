"""Configuration: schemas, checks, and the environment of the process."""
