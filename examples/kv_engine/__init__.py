"""Engines that share a KV cache: a paged-attention decoder whose prefixes are kept by `ajit.kv`.

Run all of it with ``make kv-demo``. One engine is::

    python -m uvicorn examples.kv_engine.server:app

`engine` and `prefix` are what an engine has to do; the rest is a small decoder to do it with.
"""
