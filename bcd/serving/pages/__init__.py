"""Pages for staff, and reports to print."""
