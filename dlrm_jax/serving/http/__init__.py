"""The server over HTTP: the protocol, metrics, and a page."""
