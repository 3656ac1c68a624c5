"""How fast networks run: backends, timing, and the least a device would need."""
