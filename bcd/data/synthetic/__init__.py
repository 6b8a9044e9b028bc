"""Generated smears for the demo and the tests."""
