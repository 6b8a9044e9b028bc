"""What was answered, reviewed and signed: append-only records in SQLite or PostgreSQL."""
