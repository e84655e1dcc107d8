"""Continuous batching: many requests share the decode steps of one engine."""
