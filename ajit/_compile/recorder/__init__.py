"""What compilers read: how it is named, and what it is today."""
