"""What is measured: one file for each word of the command line, and whether the answers are the same."""
