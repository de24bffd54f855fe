"""The wire: HTTP, WebSockets and streams of server-sent events, each with limits on size and time."""
