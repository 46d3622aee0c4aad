"""Words and tools that at least two of the apps use. Knows none of them."""
