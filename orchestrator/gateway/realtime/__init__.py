"""Live streams over a WebSocket: the events of NVIDIA's speech NIM, and of OpenAI's transcription sessions.

`route` takes connections, `access` says who may come in, `inbox` reads what they send and `messages` checks
it, `fields` and `session` hold what a caller asked for, `conversation` carries one connection, `items` writes
what was heard, and `events` gives every event its shape.
"""
