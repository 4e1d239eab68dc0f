"""Reports from traces, and the controls that show the instrument can say yes and no."""
