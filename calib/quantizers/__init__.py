"""Quantizers that run before a build; `base` has the table of them."""
