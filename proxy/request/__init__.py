"""What a request is: who sends it, what its body asks for, how long it is, the id that it is found by."""
