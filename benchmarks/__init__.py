"""Measurements of speed: ratios to something measured in the same run."""
