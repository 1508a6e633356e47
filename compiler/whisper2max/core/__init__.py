"""What every other room stands on: errors, sizes of a model, files held open, CPUs, memory, text that may be shown."""
