"""The page at ``/``: its files as they are, and the status that it shows."""
