"""The parts of the demo: the server's process, the load, the probes, the tables, the clean-up."""
