"""The cache: entries on disk, leases between processes, flights within one.

Imports nothing of ``_compile`` and ``_gpu``, its siblings. What is in ``fs``, ``directory``,
``disk`` and the core of ``lock`` blocks, and is called from threads; ``flight`` never does.
"""
