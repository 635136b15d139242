"""The local tritonserver: finding or unpacking one, starting, watching and stopping it."""
