"""The encoder and the decoder through the kernels of `kernels`: what runs on CUDA."""
