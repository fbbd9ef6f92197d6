"""Variables and `.env`: how they are read and checked, and the settings of the stack as a whole."""
