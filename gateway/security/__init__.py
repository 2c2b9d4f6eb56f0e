"""Who a client is: principals and credentials."""
