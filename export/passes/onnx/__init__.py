"""Passes that lower canonical ops to standard ONNX ops."""
