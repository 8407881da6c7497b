"""Decoding: what steers a model while it writes, without training."""
