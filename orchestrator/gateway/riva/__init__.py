"""Riva's gRPC service: ``nvidia.riva.asr.RivaSpeechRecognition``, with gRPC health and reflection.

`request` says what a caller asked for or refuses it by name, `service` answers the calls, `streaming` carries
one live stream, `results` and `text` write the answers, and `server` puts them on a port.
"""
