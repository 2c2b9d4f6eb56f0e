"""Cluster links and their mirror topics."""
