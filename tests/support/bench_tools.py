"""What the tests of `light-llm bench` share: efforts of a moment."""

from dataclasses import replace

from light_llm.bench.effort import Effort
from light_llm.bench.timing import Repeats
from tests.support.tools import TINY

QUICKLY = Repeats(times=3, seconds=0.002, patience=2.0)
FEW = Effort(
    dtypes=("float32", "bfloat16"),
    product=(64, 32, 48),
    block=1 << 20,
    training=(("nano", TINY), ("micro", replace(TINY, n_layer=4))),
    batch=(2, 16),
    writing=(("nano", TINY),),
    tokens=6,
    repeats=QUICKLY,
)
TRAINING = replace(FEW, dtypes=(), writing=(), block=1 << 10)
