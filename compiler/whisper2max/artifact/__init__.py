"""The directory that is published: what it holds, how it is read, checked and replaced."""
