"""Pure parts: spec, key, entry, plan, events. No I/O, no event loop, no threads, no clock."""
