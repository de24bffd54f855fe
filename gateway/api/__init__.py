"""The HTTP API: the routers with their request and response models, and the dependencies of routes."""
