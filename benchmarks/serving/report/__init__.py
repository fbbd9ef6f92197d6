"""From measurements to a document with its page and charts, and to what a reader should do."""
