"""The CUDA device that the TensorRT adapter runs on."""
