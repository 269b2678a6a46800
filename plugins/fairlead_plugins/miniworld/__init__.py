"""A tiny world with facts, misconceptions and manners, on which the whole pipeline can learn."""
