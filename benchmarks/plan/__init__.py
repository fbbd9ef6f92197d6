"""How many instances of which kind some traffic needs: `make plan`, and how right that was: `make plan-check`."""
