"""The doctor's examination: facts of this machine first, then what is wrong with them."""
