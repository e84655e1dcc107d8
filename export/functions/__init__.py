"""ONNX functions of the domain `edgekiln.ort`, one module an op, which edgekiln's kernels compute in one call."""
