"""Toolchains: compilers that were found, with version and fingerprint."""
