"""The pool of children: who gets which child, and when one has to go."""
