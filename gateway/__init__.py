"""The gateway: everything that waits for a socket, a clock or another process."""
