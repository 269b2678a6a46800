"""What ``fairlead bench generate`` and ``fairlead bench ppo`` measure."""
