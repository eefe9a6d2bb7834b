"""Probabilities to evidence: metrics, intervals, figures and the report."""
