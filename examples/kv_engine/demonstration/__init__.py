"""The parts of the demo: its processes, its requests, what happens in which order, the table."""
