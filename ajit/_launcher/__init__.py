"""The compiler launcher: any build system's compile through ajit's cache, lease and admission.

`quick` is the way of a hit, and imports next to nothing; `resolving` is every other way.
"""
