"""The command line: one small function a command, each over the Python function of the same name."""
