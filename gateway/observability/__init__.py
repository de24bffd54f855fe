"""What a process tells of itself: its log, the audit log, metrics, spans, and whether it is ready."""
