"""From a model source to an engine directory: calibrate, assemble, quantize the KV cache, evaluate."""
