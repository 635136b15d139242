"""Whisper computed by this project: what the engines ``whisper_torch`` and ``whisper_trt`` share.

A folder as transformers saves it is read (`checkpoint`, `tokens`, `weights`); audio becomes features
(`features`), a runtime computes the network (`runtime`: torch's is `network` and `compiled`, the others run
the ONNX graphs of `export`), `decoding` finds tokens, `alignment` finds when they were said, and `recognizer`
makes words of them. Nothing here imports transformers: its import alone takes seconds at every start.
"""
