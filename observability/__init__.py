"""What a person sees the stack with: scrape configuration, rules, alerts, dashboards. docs/observability.md"""
