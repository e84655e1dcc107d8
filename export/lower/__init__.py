"""Lowerings: the sequence of passes of each target."""
