"""The routes by area. Each module has one function that makes a router; who may use a route says `web.access.roles`."""
