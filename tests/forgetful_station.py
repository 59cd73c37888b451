"""A station that breaks a rule on purpose: what a full disk makes it lose is noted nowhere until there is room again.

Takes the options of ``songstream station run``; bench/faults.py is to find it out.
"""

import sys
from typing import Any

from songcore.cli import main
from songstation.spool_losses import LossFile


def forget(*_: Any, **__: Any) -> None:
    """Note nothing."""


if __name__ == "__main__":
    LossFile.save = forget  # type: ignore[method-assign]
    sys.argv[1:1] = ["station", "run"]
    main()
