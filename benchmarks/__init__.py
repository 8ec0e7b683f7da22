"""Measurements against what people would write or use instead; each runs by itself."""
