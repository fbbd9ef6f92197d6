"""From a profile, a workload and an objective to how many instances of which kind.

workload.py   requests at any rate, with longer or shorter prompts and answers
splits.py     what a number of GPUs can be: all aggregated, or so many producers and the rest consumers
figures.py    a run's figures, as the load test has them
capacity.py   the largest rate at which a split keeps the objective
answer.py     which split, how much is gained, and what would change the answer
"""
