"""What a config costs before it runs: the memory of a step, its time, and what a mesh of devices sends."""
