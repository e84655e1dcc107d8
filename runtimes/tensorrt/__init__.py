"""Adapter to TensorRT and TensorRT-RTX: targets trt and trt-rtx."""
