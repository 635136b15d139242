"""What the gateway costs: processor time a stream, and the latency that it adds to what is behind it."""
