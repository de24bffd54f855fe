"""What clients and the gateway say to each other. The contract is in docs/protocol.md."""
