"""Measurements on held-out data, and the comparison of several models."""
