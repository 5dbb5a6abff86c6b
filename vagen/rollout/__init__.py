"""The one episode loop, and who can act in it."""
