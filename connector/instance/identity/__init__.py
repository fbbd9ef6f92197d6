"""What makes a model the one that it is, told from its files: its configuration, its weights, its tokenizer."""
