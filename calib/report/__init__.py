"""The HTML page of `edgekiln report`."""
