"""A model server whose kernels are compiled when the first request needs them.

Run it from the root of the checkout, with four worker processes that share one kernel cache::

    uvicorn examples.model_server.app:app --workers 4

`examples.model_server.demo` starts it, puts load on it and checks what happens.
"""
