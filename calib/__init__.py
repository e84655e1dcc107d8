"""Quantization: number formats, calibration data, quantizers, analysis, evaluation and the TensorRT builder."""
