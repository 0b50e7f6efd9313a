"""The report: reads run folders and writes one page, its tables as Markdown and CSV. Imports no torch."""
