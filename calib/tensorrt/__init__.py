"""Compile graphs to TensorRT plans."""
