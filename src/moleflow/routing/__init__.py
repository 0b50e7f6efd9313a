"""Choice of the expert of an image."""
