"""Headers: what a source includes, as far as the key needs it."""
