"""Optimizers and recipes."""
