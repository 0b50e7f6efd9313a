"""Utilities that are independent of anomaly detection."""
