"""From a torch module to generated source: walk, specification of the graph, passes, emitter."""
