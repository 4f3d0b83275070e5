"""Breaks the code on purpose, one bug at a time, and shows which test notices. Run by `make check-all`.

A test suite is worth what it catches. Each bug is a small edit to a copy of the package; the tests named beside it have
to fail with the edit and pass without it. Exits with 1 when a bug goes unnoticed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Bug:
    """An edit, and the test files that are asked."""

    what: str
    file: str
    right: str
    wrong: str
    tests: str


BUGS = [
    Bug(
        "mask off by one: each token sees the next one",
        "light_llm/layers/attention.py",
        "F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None and T == S)",
        "F.scaled_dot_product_attention(q, k, v, torch.ones(T, S, dtype=torch.bool).tril(S - T + 1), dropout)",
        "tests/test_tiny.py tests/test_model.py",
    ),
    Bug(
        "mask off by one in the formula only",
        "light_llm/model.py",
        "mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)\n    scores",
        "mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(0)\n    scores",
        "tests/test_model.py",
    ),
    Bug(
        "attention by blocks whose diagonal is hidden",
        "light_llm/layers/attention.py",
        "dtype=q.dtype, device=q.device).triu(1)",
        "dtype=q.dtype, device=q.device).triu(0)",
        "tests/test_attention.py",
    ),
    Bug(
        "a gradient of the scores without the softmax's own part",
        "light_llm/layers/attention.py",
        ".sub_(shared[:, rows]).mul_(P)",
        ".mul_(P)",
        "tests/test_attention.py",
    ),
    Bug(
        "a block of the vocabulary that forgets its own maximum",
        "light_llm/layers/cross_entropy.py",
        "(piece.top - lse).exp()",
        "(-lse).exp()",
        "tests/test_objective.py",
    ),
    Bug(
        "rows of a second chunk that replace those of the first",
        "light_llm/layers/cross_entropy.py",
        "place.copy_(of_block) if first else place.add_(of_block)",
        "place.copy_(of_block)",
        "tests/test_objective.py",
    ),
    Bug(
        "padding of the vocabulary that takes part in the softmax",
        "light_llm/layers/cross_entropy.py",
        "z[:, block.n_ids :] = -math.inf",
        "z[:, block.n_ids :] = 0.0",
        "tests/test_objective.py",
    ),
    Bug(
        "a changed model that forgets its soft cap",
        "light_llm/generate/products.py",
        "soft_cap(product(hidden), cap)",
        "product(hidden)",
        "tests/test_formats.py",
    ),
    Bug(
        "a row of a batch that is drawn with its neighbour's number",
        "light_llm/generate/sampling.py",
        "u = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators])",
        "u = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in reversed(generators)])",
        "tests/test_formats.py tests/test_generate.py",
    ),
    Bug(
        "accumulation without weights: a mean of the micro-batches' means",
        "light_llm/train/trainer.py",
        "self.objective(x.to(self.config.device), y.to(self.config.device)) / self.weight",
        "self.objective(x.to(self.config.device), y.to(self.config.device)) / total_weight(y)",
        "tests/test_train.py",
    ),
    Bug(
        "the exact GELU instead of GPT-2's",
        "light_llm/model.py",
        'approximate="tanh" if config.activation == "gelu_tanh" else "none"',
        'approximate="none"',
        "tests/test_model.py",
    ),
    Bug(
        "positions ignored in cached decoding",
        "light_llm/generate/decode.py",
        "hidden = self.model.features(tokens, at, visible(at), self.cache)",
        "hidden = self.model.features(tokens, at * 0, visible(at), self.cache)",
        "tests/test_generate.py",
    ),
    Bug(
        "weight decay on biases and gains",
        "light_llm/optim/adamw.py",
        '"weight_decay": 0.0}',
        '"weight_decay": config.weight_decay}',
        "tests/test_tiny.py tests/test_optim.py",
    ),
    Bug(
        "bits per byte by tokens",
        "light_llm/evaluate.py",
        "bits / n_bytes if n_bytes else math.nan",
        "bits / n if n_bytes else math.nan",
        "tests/test_evaluate.py",
    ),
    Bug(
        "a save that writes to the final name",
        "light_llm/files.py",
        'partial = path.with_name(f".{path.name}.tmp-{os.getpid()}")',
        "partial = path",
        "tests/test_checkpoint.py",
    ),
    Bug(
        "a step folder under its final name before it is complete",
        "light_llm/checkpoint/files.py",
        'partial = path.with_name(f"{path.name}.tmp-{os.getpid()}")',
        "partial = path",
        "tests/test_checkpoint.py",
    ),
    Bug(
        "top-p that drops the first token",
        "light_llm/generate/sampling.py",
        "scatter(-1, order, before >= p)",
        "scatter(-1, order, probabilities.cumsum(dim=-1) >= p)",
        "tests/test_generate.py",
    ),
    Bug(
        "a non-finite step that is noticed after the update",
        "light_llm/train/guards.py",
        'return "skip" if self.policy == "skip"',
        'return "go" if self.policy == "skip"',
        "tests/test_train.py",
    ),
    Bug(
        "a resume that forgets the data counter",
        "light_llm/train/progress.py",
        "cls(state.step, state.batches, state.tokens,",
        "cls(state.step, 0, state.tokens,",
        "tests/test_resume.py",
    ),
    Bug(
        "a resume that forgets the random generators",
        "light_llm/train/resume.py",
        "    set_rng_state(rng, device)\n",
        "",
        "tests/test_resume.py",
    ),
    Bug(
        "a loss summed in bfloat16",
        "light_llm/layers/cross_entropy.py",
        "value += (lse - chosen) @ w",
        "value += (lse - chosen).bfloat16() @ w.bfloat16()",
        "tests/test_objective.py",
    ),
    Bug(
        "losses over different vocabularies are compared",
        "light_llm/report/compare.py",
        'a.data["tokenizer_sha256"] != b.data["tokenizer_sha256"]',
        'a.data["tokenizer"] != b.data["tokenizer"]',
        "tests/test_report.py",
    ),
    Bug(
        "a vocabulary learnt from the held-out text too",
        "light_llm/data/choose.py",
        "    _, pieces = next(splits(source, held_out, progress))\n    every",
        "    pieces = source.read(progress)\n    every",
        "tests/test_bpe.py",
    ),
    Bug(
        "a preparation that goes on one task too late",
        "light_llm/data/encode.py",
        "islice(todo, done, None)",
        "islice(todo, done and done + 1, None)",
        "tests/test_encode.py",
    ),
    Bug(
        "the end of a story costs a model nothing",
        "light_llm/evaluate.py",
        "paid = np.diff(np.cumsum(nats)[ends]) / math.log(2)",
        "paid = (np.diff(np.cumsum(nats)[ends]) - nats[ends[1:]]) / math.log(2)",
        "tests/test_limits.py",
    ),
    Bug(
        "a word of a tale is drawn as if none had been taken",
        "light_llm/data/tales/telling.py",
        "self.choose(_weight(table.ends, chosen), total)",
        "self.choose(_weight(table.ends, chosen), table.ends[-1])",
        "tests/test_tales.py",
    ),
    Bug(
        "patience that is counted from the start of a process",
        "light_llm/train/listeners.py",
        "waited = number - (self.best.step or 0)",
        "waited = number",
        "tests/test_stopping.py",
    ),
    Bug(
        "a step whose files are not synced before they get their name",
        "light_llm/checkpoint/files.py",
        "        files.sync(folder / name)\n",
        "",
        "tests/test_faults.py -k power",
    ),
    Bug(
        "a step whose manifest is not synced",
        "light_llm/checkpoint/files.py",
        "    files.sync(folder / MANIFEST)\n",
        "",
        "tests/test_faults.py -k power",
    ),
    Bug(
        "a step whose names are not synced before it gets its own",
        "light_llm/checkpoint/files.py",
        "    files.sync_folder(folder)\n",
        "",
        "tests/test_faults.py -k power",
    ),
    Bug(
        "a step that is said to be saved before its name is safe",
        "light_llm/checkpoint/files.py",
        "    files.sync_folder(path.parent)\n    if old.exists():",
        "    if old.exists():",
        "tests/test_checkpoint.py",
    ),
    Bug(
        "a best model that is not synced before it replaces the old one",
        "light_llm/files.py",
        "        files.sync(partial)\n",
        "",
        "tests/test_faults.py -k power",
    ),
    Bug(
        "a manifest before the files it speaks of",
        "light_llm/checkpoint/files.py",
        "    files.make_folder(folder)\n",
        "    files.make_folder(folder)\n    files.write(folder / MANIFEST, as_json({}))\n",
        "tests/test_checkpoint.py",
    ),
    Bug(
        "hashes that are not compared",
        "light_llm/checkpoint/files.py",
        'if _sha256(file) != entry.get("sha256"):',
        "if False:",
        "tests/test_checkpoint.py",
    ),
    Bug(
        "settings that are taken from a damaged run.json",
        "light_llm/plain.py",
        "    if data != sealed(rest):\n",
        "    if not rest:\n",
        "tests/test_resume.py tests/test_data.py",
    ),
    Bug(
        "a resume that takes the newest step as it is",
        "light_llm/checkpoint/run_folder.py",
        "                verify_folder(path)\n                return path, damaged",
        "                return path, damaged",
        "tests/test_resume.py",
    ),
    Bug(
        "older steps that are removed before the newest was read back",
        "light_llm/checkpoint/run_folder.py",
        "            verify_folder(steps[-1])\n",
        "            pass\n",
        "tests/test_faults.py -k removed",
    ),
    Bug(
        "a rollback whose checkpoint is pruned away by those of interruptions",
        "light_llm/checkpoint/run_folder.py",
        "if number_of(path) % every == 0][-1:]",
        "if number_of(path) % every == 0][:0]",
        "tests/test_recovery.py",
    ),
    Bug(
        "a full disk that is reported as a bug of torch",
        "light_llm/files.py",
        "raise watched.error from None",
        "raise",
        "tests/test_faults.py -k whoever",
    ),
    Bug(
        "what was half written stays after an error",
        "light_llm/checkpoint/files.py",
        "                files.remove(partial)\n        raise",
        "                pass\n        raise",
        "tests/test_faults.py -k disk",
    ),
    Bug(
        "a leftover of a best model that stops the next start",
        "light_llm/checkpoint/run_folder.py",
        'final = path.name.partition(".old-")[0]',
        'final = path.name.split(".")[0]',
        "tests/test_faults.py -k power",
    ),
    Bug(
        "room on the disk that nobody asks for",
        "light_llm/train/room.py",
        "if free is not None and free < needed:\n        raise no_room",
        "if free is None:\n        raise no_room",
        "tests/test_faults.py",
    ),
    Bug(
        "an update that is made before it is judged",
        "light_llm/train/update.py",
        '        if verdict == "go":\n            self.optimizer.step()\n',
        "        self.optimizer.step()\n",
        "tests/test_train.py tests/test_recovery.py",
    ),
    Bug(
        "a gate that nobody closes",
        "light_llm/train/update.py",
        "self.optimizer.found_inf = self.flag",
        "self.optimizer.lost_inf = self.flag",
        "tests/test_recovery.py -k gated",
    ),
    Bug(
        "a gate that opens again before its flag was read",
        "light_llm/train/update.py",
        "torch.maximum(self.flag, bad) if self.sticky else bad",
        "bad",
        "tests/test_recovery.py -k gated",
    ),
    Bug(
        "a rollback to the same batches",
        "light_llm/train/trainer.py",
        "batches=attempt.before.batches + 1, ",
        "",
        "tests/test_recovery.py",
    ),
    Bug(
        "going back without end",
        "light_llm/train/trainer.py",
        "rollbacks=self.at.rollbacks + 1",
        "rollbacks=self.at.rollbacks",
        "tests/test_recovery.py",
    ),
    Bug(
        "a saved run whose generators went on in a step that failed",
        "light_llm/train/trainer.py",
        "                set_rng_state(generators, self.config.device)\n",
        "",
        "tests/test_recovery.py",
    ),
    Bug(
        "a step that is tried again on top of half a gradient",
        "light_llm/train/trainer.py",
        "                self.model.zero_grad(set_to_none=True)\n",
        "",
        "tests/test_recovery.py",
    ),
    Bug(
        "losses that a resumed run has forgotten, so that it sees no spike",
        "light_llm/train/progress.py",
        "state.rollbacks, state.recent_losses",
        "state.rollbacks, ()",
        "tests/test_recovery.py tests/test_faults.py",
    ),
]


def main() -> int:
    """Try every bug, or those whose words or file have the argument in them; print a line for each.

    Returns the number that went unnoticed.
    """
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    unnoticed = 0
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "copy")
        ignore = shutil.ignore_patterns(".git", ".venv", "checkpoints*", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(CHECKOUT, copy, ignore=ignore)
        for bug in (bug for bug in BUGS if wanted in bug.what or wanted in bug.file):
            caught = _who_notices(bug, copy)
            unnoticed += not caught
            print(f"{'caught  ' if caught else 'UNNOTICED'} {bug.what}: {caught or bug.tests}", flush=True)
    return unnoticed


def _who_notices(bug: Bug, copy: Path) -> str:
    """The first test that fails with the bug, or nothing."""
    path = copy / bug.file
    good = path.read_text(encoding="utf-8")
    if good.count(bug.right) != 1:
        raise SystemExit(f"{bug.what}: {bug.file} no longer has the line this bug breaks; write the bug anew")
    path.write_text(good.replace(bug.right, bug.wrong), encoding="utf-8")
    try:
        words = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "--no-header",
            "-p",
            "no:cacheprovider",
            *bug.tests.split(),
        ]
        env = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        child = subprocess.run(words, cwd=copy, env=env, capture_output=True, text=True, check=False)
        failed = [line.split()[1] for line in child.stdout.splitlines() if line.startswith("FAILED ")]
        return failed[0] if child.returncode == 1 and failed else ""
    finally:
        path.write_text(good, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(1 if main() else 0)
