"""What a run tells: the verdict, plots and tables, as one HTML page and as a Markdown table."""
