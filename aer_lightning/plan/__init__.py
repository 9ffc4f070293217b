"""What a run will need before it starts: memory by phase, time by phase, and the smallest change that makes it fit."""
