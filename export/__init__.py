"""From a transformers model to ONNX graphs: tracing, the canonical graph, passes and lowerings."""
