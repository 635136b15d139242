"""How many live streams a server bears: real-time clients over gRPC against a real Triton."""
