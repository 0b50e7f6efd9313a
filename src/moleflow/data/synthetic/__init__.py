"""A synthetic data set: four rendered products with defects and exact masks."""
