"""The program of a compile worker. It is a child process and imports little more than itself."""
