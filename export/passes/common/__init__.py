"""Passes over the canonical graph and passes that all targets share."""
