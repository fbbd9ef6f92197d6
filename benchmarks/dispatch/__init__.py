"""How the choice of instances behaves under a real hour of traffic: the proxy's own functions in a simulated fleet."""
