"""The command line: a face of the library that decides nothing itself."""
