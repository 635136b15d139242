"""HTTP: OpenAI's audio endpoints and the service endpoints of NVIDIA's speech NIM."""
