"""The addresses that clients connect to: bootstrap and one port per broker."""
