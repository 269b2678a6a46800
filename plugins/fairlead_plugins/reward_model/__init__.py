"""The reward model, trained on K-way rankings."""
