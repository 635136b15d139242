"""How long an engine takes from the start of its process, by what it finds in its caches."""
