"""The dashboards as code, on Grafana's own SDK; `python -m observability.dashboards` writes them as JSON."""
