"""Entries: artifacts and failure records on disk, and which of them are evicted."""
