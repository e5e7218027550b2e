"""The cache: its files, the leases between processes, and the entries on disk.

``files`` < ``leases`` < ``entries``: imports point down. Nothing here imports ``_compile`` or
``_gpu``, its siblings. Most of it blocks and is called from threads.
"""
