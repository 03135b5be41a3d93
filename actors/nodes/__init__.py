"""Several gateways on one store: which of them live, and what one does that has lost its lease."""
