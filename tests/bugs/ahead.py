"""What is foretold, refused, and looked at before a run starts."""

from . import Bug

BUGS = [
    Bug(
        "a layer that is said to keep less than it does",
        "light_llm/plan/memory.py",
        "8 * C + s.width * (2 * C + 5",
        "6 * C + s.width * (2 * C + 4",
        "tests/test_plan.py",
    ),
    Bug(
        "the head's gradient left out of memory",
        "light_llm/plan/memory.py",
        "ends = table + 8 * s.N * m.n_embd",
        "ends = 8 * s.N * m.n_embd",
        "tests/test_plan.py",
    ),
    Bug(
        "gradients of earlier micro-batches left out of memory",
        "light_llm/plan/memory.py",
        "so_far = 4 * P if s.micro_batches > 1 else 0",
        "so_far = 0",
        "tests/test_plan.py",
    ),
    Bug(
        "one moment too few",
        "light_llm/plan/memory.py",
        "return 8 * (get_model_size(model) - matrices) + 4 * matrices",
        "return 4 * (get_model_size(model) - matrices) + 4 * matrices",
        "tests/test_plan.py",
    ),
    Bug(
        "everything fits",
        "light_llm/plan/plan.py",
        "return self.room is None or self.memory.total <= self.room.bytes",
        "return True",
        "tests/test_plan.py tests/test_fit.py",
    ),
    Bug(
        "recomputation that costs no time",
        "light_llm/plan/seconds.py",
        "return seconds * (1 + p.forward) if s.checkpointing else seconds",
        "return seconds",
        "tests/test_plan.py",
    ),
    Bug(
        "fewer sequences at a time than needed",
        "light_llm/plan/ways.py",
        "for n in range(now - 1, 0, -1)",
        "for n in range(1, now)",
        "tests/test_fit.py",
    ),
    Bug(
        "a budget that sees a text as often as it likes",
        "light_llm/plan/budget.py",
        "most = max(1, int(PASSES * text.tokens / (train.batch_size * T)))",
        "most = max(1, int(100 * PASSES * text.tokens / (train.batch_size * T)))",
        "tests/test_fit.py",
    ),
    Bug(
        "memory that others have counted as free",
        "light_llm/runtime/limits.py",
        '_of_meminfo("MemAvailable", proc)',
        '_of_meminfo("MemTotal", proc)',
        "tests/test_room.py",
    ),
    Bug(
        "a container that is not looked at",
        "light_llm/runtime/limits.py",
        "rooms = [_of_the_machine(proc, mine), _of_the_container(cgroup, mine), _of_the_shell(proc, mine)]",
        "rooms = [_of_the_machine(proc, mine), _of_the_shell(proc, mine)]",
        "tests/test_room.py",
    ),
    Bug(
        "a run that is started whatever it needs",
        "light_llm/train/foresee.py",
        "if plan is None or plan.fits:",
        "if True:",
        "tests/test_foresee.py",
    ),
    Bug(
        "a device that is used whatever the doctor found",
        "light_llm/train/foresee.py",
        "    check_device(found)\n",
        "",
        "tests/test_foresee.py",
    ),
    Bug(
        "a remedy that is named and not put in place",
        "light_llm/train/foresee.py",
        "            use_formula(model)\n",
        "            pass\n",
        "tests/test_foresee.py",
    ),
    Bug(
        "a tile whose sum asks for memory each time",
        "light_llm/layers/cross_entropy.py",
        "terms = z if adding is None else adding[: z.numel()].view(z.shape).copy_(z)",
        "terms = z",
        "tests/test_objective.py",
    ),
    Bug(
        "float64 asked of a device that has none",
        "light_llm/observe/predictions.py",
        "confidence, right = confidence.cpu().double(), right.cpu().double()",
        "confidence, right = confidence.double(), right.double()",
        "tests/test_mps.py",
    ),
    Bug(
        "dropout drawn anew where a block is computed again",
        "light_llm/model.py",
        ", context_fn=same_draws(x))",
        ")",
        "tests/test_mps.py",
    ),
    Bug(
        "a tolerance that lets everything pass",
        "light_llm/doctor/tolerance.py",
        "SAFETY = 4.0",
        "SAFETY = 4.0e6",
        "tests/test_doctor.py",
    ),
    Bug(
        "a step that is deleted under its own name",
        "light_llm/checkpoint/run_folder.py",
        """            self.files.rename(path, going)
            self.files.remove(going)
""",
        "            self.files.remove(path)\n",
        "tests/test_run_folder.py",
    ),
]
