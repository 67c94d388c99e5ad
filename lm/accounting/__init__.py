"""What a config costs, computed before it runs: the memory and time of a step, and the traffic between devices."""
