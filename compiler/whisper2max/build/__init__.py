"""From generated source to compiled graphs, and where they are kept."""
