"""The command line: commands, streams to the terminal, exit status."""
