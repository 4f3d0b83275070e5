"""Check that a device computes correctly: fixed inputs on the device against float64 on the CPU."""

from .runner import Diagnosis as Diagnosis
from .runner import check_device as check_device
from .runner import full_check as full_check
from .runner import has_cached_check as has_cached_check
from .runner import quick_check as quick_check
