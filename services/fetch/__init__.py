"""Fetching what users name: addresses of pictures, manifests and webhooks lead to public servers only."""
