"""How daemons carry their messages: HTTP and JSON, over mutual TLS or a Unix socket of one machine."""
