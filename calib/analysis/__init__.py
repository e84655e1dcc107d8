"""Analyses of a model that quantizers use: layer groups, activation statistics and output errors."""
