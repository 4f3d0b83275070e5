"""Models for other programs, and from them. Nothing here is imported before it is asked for."""
