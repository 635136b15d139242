"""Forced alignment: when known words were said, from the probabilities of a CTC model.

`orchestrator.engines.aligner` loads an `Aligner`. In here are its parts: `spelling` (words to a model's
tokens), `trellis` (tokens to frames), `timing` (frames to word times), and one module for each kind of
weights that gives the probabilities.
"""
