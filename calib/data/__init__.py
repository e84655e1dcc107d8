"""Calibration data: loading, checks and the disk cache."""
