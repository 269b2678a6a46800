"""Reinforcement learning from human feedback: PPO and PPO-ptx."""
