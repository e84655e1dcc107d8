"""Passes that lower canonical ops to com.microsoft and edgekiln.ort ops."""
