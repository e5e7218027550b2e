"""Print what is made of the table of metrics: ``python -m ajit.instrumentation dashboard``."""

from __future__ import annotations

import sys

from ajit.instrumentation.alerts import rules_text
from ajit.instrumentation.grafana import dashboard_text
from ajit.instrumentation.metrics import metrics_table

PRINTED = {"dashboard": dashboard_text, "rules": rules_text, "table": metrics_table}


def main() -> int:
    """Print one of them; 2 if there is no such thing."""
    wanted = sys.argv[1:]
    if len(wanted) != 1 or wanted[0] not in PRINTED:
        sys.stderr.write(f"usage: python -m ajit.instrumentation {'|'.join(PRINTED)}\n")
        return 2
    sys.stdout.write(PRINTED[wanted[0]]().rstrip("\n") + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
