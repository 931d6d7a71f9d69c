"""Decides which tier answers a ticket: one ONNX graph, then a pure policy."""
