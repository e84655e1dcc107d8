"""Trace a transformers model to the canonical graph."""
