"""The jobs of a process: its background tasks and what they do periodically."""
