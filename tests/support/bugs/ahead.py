"""Predictions, refusals and checks before a run starts."""

from . import Bug

BUGS = [
    Bug(
        "a layer that is said to keep less than it does",
        "plan: saved_bytes_of_layer",
        "8 * C + s.width * (2 * C + 5",
        "6 * C + s.width * (2 * C + 4",
        "tests/plan/test_plan.py",
    ),
    Bug(
        "the head's gradient left out of memory",
        "plan: moments",
        "ends = table + 8 * s.N * m.n_embd",
        "ends = 8 * s.N * m.n_embd",
        "tests/plan/test_plan.py",
    ),
    Bug(
        "gradients of earlier micro-batches left out of memory",
        "plan: moments",
        "so_far = 4 * P if s.micro_batches > 1 else 0",
        "so_far = 0",
        "tests/plan/test_plan.py",
    ),
    Bug(
        "one moment too few",
        "config: OptimizerFacts.state_bytes",
        "return 4 * (self.matrix_moments * matrices + self.moments * others)",
        "return 4 * (self.matrix_moments * matrices + others)",
        "tests/plan/test_plan.py",
    ),
    Bug(
        "everything fits",
        "plan: Plan.fits",
        "return self.limit is None or self.memory.total <= self.limit.bytes",
        "return True",
        "tests/plan/test_plan.py tests/plan/test_fit.py",
    ),
    Bug(
        "recomputation that costs no time",
        "plan: block_seconds",
        "return seconds * (1 + p.forward) if s.checkpointing else seconds",
        "return seconds",
        "tests/plan/test_plan.py",
    ),
    Bug(
        "fewer sequences at a time than needed",
        "plan: micro_batches",
        "for n in range(current - 1, 0, -1)",
        "for n in range(1, current)",
        "tests/plan/test_fit.py",
    ),
    Bug(
        "a budget that sees a text as often as it likes",
        "plan: _max_steps",
        "limit = max(1, int(MAX_PASSES * text.tokens / (train.batch_size * T)))",
        "limit = max(1, int(100 * MAX_PASSES * text.tokens / (train.batch_size * T)))",
        "tests/plan/test_fit.py",
    ),
    Bug(
        "memory that others have counted as free",
        "runtime: _machine_limit",
        '_meminfo("MemAvailable", proc)',
        '_meminfo("MemTotal", proc)',
        "tests/runtime/test_memory_limits.py",
    ),
    Bug(
        "a container that is not looked at",
        "runtime: memory_limit",
        "limits = [_machine_limit(proc, resident), _container_limit(cgroup, resident), _shell_limit(proc, resident)]",
        "limits = [_machine_limit(proc, resident), _shell_limit(proc, resident)]",
        "tests/runtime/test_memory_limits.py",
    ),
    Bug(
        "a run that is started whatever it needs",
        "train: run_checks",
        "if plan and not plan.fits and not options.force:",
        "if False:",
        "tests/train/test_preflight.py",
    ),
    Bug(
        "a device that is used whatever the doctor found",
        "doctor: check_device",
        "if advice.action not in unneeded:",
        "if False:",
        "tests/doctor/test_doctor.py",
    ),
    Bug(
        "a tile whose sum asks for memory each time",
        "layers: block_softmax",
        "terms = z if scratch is None else scratch[: z.numel()].view(z.shape).copy_(z)",
        "terms = z",
        "tests/test_objective.py",
    ),
    Bug(
        "float64 asked of a device that has none",
        "observe: calibration",
        "confidence, right = confidence.cpu().double(), right.cpu().double()",
        "confidence, right = confidence.double(), right.double()",
        "tests/runtime/test_mps.py",
    ),
    Bug(
        "dropout drawn anew where a block is computed again",
        "model: LightLLM.hidden_states",
        ", context_fn=preserve_rng(x))",
        ")",
        "tests/runtime/test_mps.py",
    ),
    Bug(
        "a tolerance that lets everything pass",
        "light_llm/doctor/compare.py",
        "SAFETY = 4.0",
        "SAFETY = 4.0e6",
        "tests/doctor/test_doctor.py",
    ),
    Bug(
        "a step that is deleted under its own name",
        "checkpoint: RunFolder.prune",
        """            self.files.rename(path, doomed)
            self.files.remove(doomed)
""",
        "            self.files.remove(path)\n",
        "tests/checkpoint/test_run_folder.py",
    ),
]
