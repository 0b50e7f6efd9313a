"""Image scores, anomaly maps and thresholds from patch scores."""
