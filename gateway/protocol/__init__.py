"""The messages and commands between gateway and clients. docs/protocol.md defines the protocol."""
