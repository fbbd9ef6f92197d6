"""What is measured: one file for each word of the command line."""
