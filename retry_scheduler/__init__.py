"""Holds a retry until it is due, and deletes what is done and old."""
