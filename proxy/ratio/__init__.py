"""Whether there are as many producers to a consumer as the traffic of late wants."""
