"""Names for the array types that cross module borders."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["FloatArray", "IntArray"]

FloatArray: TypeAlias = NDArray[np.float32]
"""float32 array; its shape and unit are given where it is used."""

IntArray: TypeAlias = NDArray[np.int64]
"""int64 array; its shape and unit are given where it is used."""
