"""The edge: routers with their own request and response models, and the dependencies."""
