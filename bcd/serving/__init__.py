"""The server: an API, pages for staff, and records of every answer."""
