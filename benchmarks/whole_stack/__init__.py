"""A whole stack as its users start it, under headless runs of the load test: what benchmarks of such stacks share.

stack_side.py       starts one side of a comparison, and ends it
headless.py         one run of the load test against it
run_folders.py      runs on disk: which of them came to their end
resuming.py         how a comparison that was interrupted is found again
users_variables.py  what the user has set of the stack's variables, as a page may show it
progress.py         how far a comparison is
"""
