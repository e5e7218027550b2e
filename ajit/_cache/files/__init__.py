"""Files: the cache directory, who may write to it, and publishing into it."""
