"""The command line: runs a command under Hydra, help, overrides and paths."""
