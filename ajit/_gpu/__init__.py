"""The device: the CUDA thread, memory, modules, launches and their completion.

`ajit._gpu.device.open_device` is the way in. Everything that calls the driver is in
``native/executor/`` and runs on the CUDA thread; the Python here packs submissions and wakes
tasks.
"""
