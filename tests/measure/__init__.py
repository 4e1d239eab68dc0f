"""The instrument itself, without a scheduler."""
