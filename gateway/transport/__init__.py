"""What is on the wire: HTTP, the WebSocket and the stream, each bounded."""
