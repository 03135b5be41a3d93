"""The session of one conversation: a pure state machine, and the actor that runs it."""
