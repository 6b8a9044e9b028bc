"""Images that wait in the records for an answer, shared by all servers of a database."""
