"""Breast ultrasound classification with parallel ResNet and transformer branches, in JAX and Flax."""

__version__ = "0.1.0"
