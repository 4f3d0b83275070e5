"""One training run on several processes: data parallel (DDP), fully sharded (FSDP2), or one process and no wrapper."""

from .base import Parallel as Parallel
from .base import parallelize as parallelize
