"""Adapters to ONNX Runtime: targets ort-cpu and ort-cuda."""
