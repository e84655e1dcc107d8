"""GGUF files as model sources."""
