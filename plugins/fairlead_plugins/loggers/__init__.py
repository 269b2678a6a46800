"""Loggers: where metrics go besides the console, JSONL and CSV."""
