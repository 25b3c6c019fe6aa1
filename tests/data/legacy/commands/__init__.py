"""No handler is in here."""
