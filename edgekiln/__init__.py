"""edgekiln: from a Hugging Face language model to a quantized engine that runs at the edge."""

__version__ = "0.1.0"
