"""The gateway: one process in front of Triton that speaks the protocols existing speech clients speak.

`service` is what every protocol shares: the models, and recordings in, transcripts out. `admission` bounds
the work, `live` carries live streams, and `intake` decodes their audio. Each protocol is a package beside
them (`http`, `riva`), and `server` runs them together. The process imports neither torch nor an engine, so it
starts and restarts without touching the models.
"""
