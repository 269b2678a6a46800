"""Causal language modelling: the pretraining stage, and pretraining text in later ones."""
