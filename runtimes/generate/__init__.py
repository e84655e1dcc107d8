"""The generate loop, speculative decoding, stop sequences and conversations."""
