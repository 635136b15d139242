"""Live streams: audio in as it is spoken, events out as soon as they are known."""
