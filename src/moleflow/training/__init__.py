"""Training: the task sequence, its Lightning shell and the run folder."""
