"""The base of all other packages: errors, model sizes, files held open, CPU features, memory, printable text."""
