"""Put a training run on several processes: data parallel (DDP) or fully sharded (FSDP2)."""

from .base import Parallel as Parallel
from .base import check_parallel as check_parallel
from .base import parallelize as parallelize
