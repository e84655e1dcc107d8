"""Graph passes, a subpackage per dialect: `common` (canonical graph), `ort` (ONNX Runtime), `onnx` (standard ops)."""
