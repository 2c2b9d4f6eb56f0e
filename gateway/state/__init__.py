"""What the gateways remember: links, mirrors and users, in a compacted topic of the fronted cluster."""
