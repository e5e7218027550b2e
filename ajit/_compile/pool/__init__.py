"""The compile pool: which compile starts when, in which child process, with which limits."""
