"""Tickets: from a submission to the task that the device's answer wakes.

- `ticket`: what users hold, `Ticket` and `Step`. They are thin: one reference to a state.
- `state`: what is known of a submission. The port settles it; tickets only read it.
- `port`: one event loop's way to the CUDA thread and back.
- `port_memory`: the memory that the executor and the port share.
- `waiting`: how a task of the loop waits: it spins for a moment, then it parks.
- `watching`: who is told of every ticket: traces and spans.
- `thread`: the CUDA thread itself.

Names without an underscore are for this package and its neighbours in ``ajit._gpu``. Users see
`Ticket` and `Step` only.
"""
