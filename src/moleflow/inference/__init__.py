"""What a trained model is used for: predictions, export, assembling experts of several runs."""
