"""The policy module and the mathematics of its update."""
