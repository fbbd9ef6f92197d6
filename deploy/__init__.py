"""How the stack is deployed beyond one machine: the Helm chart, and what keeps its values in step with the settings."""
