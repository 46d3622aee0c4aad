"""Holds a retry until it is due, brings back what was parked, and deletes what is done and old."""
