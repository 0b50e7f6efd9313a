"""Logs of a run in CSV files, Weights & Biases, TensorBoard and MLflow."""
