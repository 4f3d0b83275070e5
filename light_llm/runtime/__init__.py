"""The machine: its devices, number formats, random generators, clock and environment. Decided once, said out loud."""

from .choice import Choice as Choice
from .cores import usable_cores as usable_cores
from .cores import use_cores as use_cores
from .device import can_gate_updates as can_gate_updates
from .device import choose_device as choose_device
from .device import device_name as device_name
from .lock import lock_folder as lock_folder
from .lock import unlock as unlock
from .memory import is_out_of_memory as is_out_of_memory
from .memory import keep_memory as keep_memory
from .memory import peak_memory as peak_memory
from .memory import total_memory as total_memory
from .precision import autocast as autocast
from .precision import choose_compile as choose_compile
from .precision import choose_dtype as choose_dtype
from .seed import rng_state as rng_state
from .seed import seed_everything as seed_everything
from .seed import set_rng_state as set_rng_state
from .settings import cache_dir as cache_dir
from .settings import offline_dir as offline_dir
from .settings import stop_after as stop_after
from .settings import tiktoken_cache_dir as tiktoken_cache_dir
from .versions import versions as versions
