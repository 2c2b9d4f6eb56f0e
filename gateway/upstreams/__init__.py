"""Connections to brokers, dialled or reversed, that their users cannot tell apart."""
