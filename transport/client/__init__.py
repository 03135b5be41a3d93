"""What a client of the gateway at a terminal needs: HTTP, lines of input, a line editor."""
