"""Who may: users, sessions, services, tokens, keys and issuers."""
