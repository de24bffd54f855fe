"""Authentication and authorization: users, sessions, services, tokens, keys and issuers."""
