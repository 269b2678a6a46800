"""Data sources: where prompts, demonstrations, comparisons and text come from."""
