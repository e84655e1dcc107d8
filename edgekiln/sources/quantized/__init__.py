"""Quantized checkpoint formats, read with their codes and scales."""
