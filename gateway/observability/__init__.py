"""The observability of a process: console log, audit log, metrics, spans and readiness."""
