"""A model server whose kernels are compiled when the first request needs them.

`serve` starts it, `demo` shows it at work. Run both from the root of the checkout::

    python -m examples.model_server.serve --workers 4
    python -m examples.model_server.demo
"""
