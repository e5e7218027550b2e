"""Leases: locks between processes, with a record of the holder that waiters can read."""
