"""Fused steps for CUDA, written in Triton's language (the compiler's, which torch brings along).

Each does in one pass over memory what torch does in several; the products of large matrices stay with the
vendor's library. All sums are float32, whatever the inputs are. `fused.encoder` and `fused.loop` call them;
`encoder` and `heads` hold the same computation in plain torch, and the tests compare the two.
"""
