"""Turns deliveries into attempts."""
