"""Other programs: Triton Inference Server, lm-evaluation-harness, compressed-tensors checkpoints."""
