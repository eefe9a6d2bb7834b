"""Breast ultrasound classification with parallel ResNet and transformer branches, in JAX."""

__version__ = "0.1.0"
