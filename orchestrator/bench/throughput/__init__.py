"""Speed of recognition on one machine: the engine in this process, and the same engine behind Triton."""
