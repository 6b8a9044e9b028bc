"""The command line: running a command under Hydra, help, overrides and paths."""
