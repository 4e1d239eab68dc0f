"""What a cell is measured with."""
