"""Quantization schemes, quantized weights and data-free quantization. Below `edgekiln.sources` in the import order."""
