"""Engines that live outside Triton, behind the interface of the client's transports."""
