"""Public checkpoints to parameters: name maps and layouts, in plain NumPy."""
