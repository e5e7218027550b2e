"""The resolution of one key: request, flight, walk of the plan, waiting, credits."""
