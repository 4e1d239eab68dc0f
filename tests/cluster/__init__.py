"""The dev cluster: its parts by themselves, and the whole of it with real processes (marker ``cluster``)."""
