"""How hypothesis tries things here: the same things each time, and however slow the machine is.

And what the checks of the plan share: a plan that a test broke leaves nothing to the next one.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.core.plan_model import moves_of

settings.register_profile(
    "core",
    derandomize=True,
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("core")


@pytest.fixture
def fresh_moves():
    """Moves are cached: a plan that a test broke must not leave its moves to the next one."""
    moves_of.cache_clear()
    yield
    moves_of.cache_clear()
