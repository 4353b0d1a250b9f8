"""The environment in which numpy's products start no threads.

numpy reads it when it is imported. Its threads wait actively, on cores that others need.
"""

from __future__ import annotations

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
