"""A trained run as a program of its own: StableHLO or ONNX, with all that using it needs."""
