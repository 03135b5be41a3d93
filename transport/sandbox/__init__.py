"""The sandbox of agents: what a child sees of the machine, and where its connections go."""
