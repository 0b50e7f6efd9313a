"""What was recorded elsewhere, what is proposed, and how the runs made here compare."""
