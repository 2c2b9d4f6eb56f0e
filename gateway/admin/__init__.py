"""The administration address: REST API, health and metrics."""
