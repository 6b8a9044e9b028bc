"""Users, roles, passwords, tokens and sessions."""
