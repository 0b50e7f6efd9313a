"""The anomaly detector: feature extraction, routing, density estimation and scoring."""
