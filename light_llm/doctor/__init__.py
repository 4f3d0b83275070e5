"""Whether a device computes right: fixed cases against float64 on the CPU, and what to do where it does not."""

from .diagnosis import Diagnosis as Diagnosis
from .examine import core as core
from .examine import full as full
from .remedies import Remedy as Remedy
from .remedies import use_formula as use_formula
from .remedies import use_plain_update as use_plain_update
from .remembered import remembered_core as remembered_core
from .values import Case as Case
from .values import Finding as Finding
from .words import check_device as check_device
from .words import verdict_lines as verdict_lines
