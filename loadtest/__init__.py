"""Load on the stack as its users make it, measured as the field measures: TTFT, TPOT, ITL and the end-to-end time."""
