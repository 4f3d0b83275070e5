"""Which package may import which, and what the code may do where. The table is the architecture."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import light_llm

PACKAGE = Path(light_llm.__file__).parent
CHECKOUT = PACKAGE.parent
EVERYTHING = "*"

# Modules without imports of their own, which every package may import.
FOUNDATION = {"errors", "atomic_io", "json_io", "text_format"}

# A package may import itself, the foundation, and what this table lists. Planned packages are listed too.
MAY_IMPORT = {
    **dict.fromkeys(FOUNDATION, ""),
    "config": "",
    "runtime": "config",
    "layers": "config",
    "optim": "config",  # optimizers work on any nn.Module and never see ours
    "lora": "config",
    "model": "layers config",
    "objective": "layers model config",
    "data": "runtime config",
    "checkpoint": "model data runtime config",
    "parallel": "layers objective model runtime config",
    "evaluate": "objective model data runtime config",
    "generate": "model data checkpoint runtime config",
    "observe": "layers objective model data runtime config",
    "report": "observe config",  # it reads a run folder and nothing else
    "plan": "layers model objective optim runtime config",
    "doctor": "layers model objective optim generate runtime config",
    "interop": "layers model data checkpoint evaluate generate runtime config",
    "lm_eval": "objective model data checkpoint evaluate generate interop runtime config",
    "train": "objective model data optim checkpoint evaluate generate observe plan doctor parallel "
    "report runtime config",
    "serve": "generate report runtime config",
    "cli": EVERYTHING,
    "__init__": EVERYTHING,
    "__main__": EVERYTHING,
}


def modules() -> Iterator[tuple[Path, str, ast.Module]]:
    """Yield each file of light_llm, its package, and its syntax tree."""
    for file in sorted(PACKAGE.rglob("*.py")):
        yield file, file.relative_to(PACKAGE).with_suffix("").parts[0], ast.parse(file.read_text(encoding="utf-8"))


def packages_imported(node: ast.AST, file: Path) -> Iterator[str]:
    """Yield the packages that an import statement reaches: absolute or relative."""
    if isinstance(node, ast.Import):
        for name in node.names:
            parts = name.name.split(".")
            if parts[0] == "light_llm" and len(parts) > 1:
                yield parts[1]
    elif isinstance(node, ast.ImportFrom):
        depth = len(file.relative_to(PACKAGE).parts)  # of the file below the package: 1 for a file at its top
        parts = (node.module or "").split(".") if node.module else []
        if node.level == 0:
            if parts[:1] != ["light_llm"]:
                return
            parts = parts[1:]
        elif node.level != depth:
            return  # stays inside the package
        for package in [parts[0]] if parts else [alias.name for alias in node.names]:
            if package != "__version__":
                yield package


def test_every_import_is_in_the_table() -> None:
    strays = []
    for file, package, tree in modules():
        allowed = MAY_IMPORT[package]
        for node in ast.walk(tree):
            for other in packages_imported(node, file):
                if allowed != EVERYTHING and other not in (package, *FOUNDATION, *allowed.split()):
                    strays.append(f"{package} -> {other} ({file.name}:{node.lineno})")  # type: ignore[attr-defined]
    assert not strays, f"imports that the table does not allow: {strays}"


def test_the_walker_sees_imports() -> None:
    """The test above is worth what its reader of imports is worth."""
    deep, top = PACKAGE / "config" / "x.py", PACKAGE / "x.py"
    for (line, file), packages in {
        ("from ..train import Trainer", deep): ["train"],
        ("from .values import check", deep): [],
        ("from .train.trainer import Trainer", top): ["train"],
        ("from . import train", top): ["train"],
        ("import light_llm.train.trainer", deep): ["train"],
        ("from light_llm.train import Trainer", deep): ["train"],
        ("from light_llm import train", deep): ["train"],
        ("import torch", deep): [],
    }.items():
        assert list(packages_imported(ast.parse(line).body[0], file)) == packages, line


def test_only_the_runtime_knows_the_machine() -> None:
    strays = []
    for file, package, tree in modules():
        # onnx_generate.py also works alone, as a copy; cli/processes.py starts ranks without loading torch for it.
        if package in ("runtime", "parallel") or file.name in ("onnx_generate.py", "processes.py"):
            continue
        for node in ast.walk(tree):
            is_environment = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv")
            is_device = isinstance(node, ast.Attribute) and node.attr in ("cuda", "mps", "xpu")
            is_name = isinstance(node, ast.Constant) and node.value in ("cuda", "mps", "xpu")
            if is_environment or is_device or is_name:
                strays.append(f"{file.name}:{node.lineno}")  # type: ignore[attr-defined]
    assert not strays, f"devices or environment variables outside runtime/: {strays}"


def test_processes_talk_in_few_places() -> None:
    """The rest of the package calls methods of `World`, which are the identity for one process."""
    talking = set()
    for file, package, tree in modules():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if any(name.startswith("torch.distributed") for name in (source, *names)):
                talking.add(package if package in ("parallel", "optim") else str(file.relative_to(PACKAGE)))
    assert talking <= {"runtime/process_group.py", "parallel", "optim"}


# Where the time of day is asked for: durations and decisions are made on clocks that nobody sets.
TIME_OF_DAY = {
    "checkpoint/lock.py": "when the owner of a folder started, for people",
    "train/preflight.py": "when a run started, for people",
    "cli/runs.py": "how long ago that was, for people",
    "data/http.py": "a server names a time of day before which not to ask again",
    "data/fingerprint.py": "compared with the time stamps of files, which are times of day",
    "report/liveness.py": "compared with the time stamp of metrics.jsonl, for people",
}


def asks_for_the_time_of_day(tree: ast.Module) -> bool:
    """`time.time()`, `datetime.now()` and their like, called or handed on, and the names imported alone."""
    asked = {"time": ("time", "time_ns", "ctime", "localtime", "gmtime"), "datetime": ("now", "utcnow", "today")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value).rpartition(".")[2]
            if node.attr in asked.get("datetime" if owner == "date" else owner, ()):
                return True
        names = {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
        if names & {*asked["time"], "*"} and ast.unparse(node).startswith("from time "):
            return True
    return False


def test_nothing_is_decided_by_the_time_of_day() -> None:
    found = {str(file.relative_to(PACKAGE)) for file, _, tree in modules() if asks_for_the_time_of_day(tree)}
    assert found == TIME_OF_DAY.keys()


def test_the_reader_of_clocks_sees_clocks() -> None:
    for line, found in {
        "import time; start = time.time()": True,
        "from time import time": True,
        "import datetime; datetime.datetime.now()": True,
        "from datetime import datetime; f = datetime.now": True,
        "from datetime import date; date.today()": True,
        "import time; time.perf_counter(); time.sleep(1); time.monotonic()": False,
        "from time import perf_counter": False,
    }.items():
        assert asks_for_the_time_of_day(ast.parse(line)) == found, line


CODE_FROM_FILES = ("pickle", "dill", "marshal", "shelve", "joblib", "cloudpickle", "yaml", "jinja2")
CODE_FROM_TEXT = ("eval", "exec", "compile", "__import__", "os.system", "torch.jit.load", "torch.hub.load")
SAFE = {"shell": "False", "weights_only": "True", "allow_pickle": "False", "trust_remote_code": "False"}


def can_run_code(node: ast.AST) -> bool:
    """Whether a statement could run what is in a file, or hand a text to a shell."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
        return any(n.split(".")[0] in CODE_FROM_FILES for n in names)
    if isinstance(node, ast.Call):
        called, words = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        unsafe = any(words.get(name, safe) != safe for name, safe in SAFE.items())
        careless = called == "torch.load" and words.get("weights_only") != "True"
        return called in CODE_FROM_TEXT or unsafe or careless
    return False


def test_nothing_runs_code_from_a_file() -> None:
    strays = [
        f"{file.name}:{node.lineno}"  # type: ignore[attr-defined]
        for file, _, tree in modules()
        for node in ast.walk(tree)
        if can_run_code(node)
    ]
    assert not strays, strays


RUNS_CODE = """import pickle; from pickle import loads; import yaml; torch.load(f); torch.load(f, weights_only=False)
torch.load(f, weights_only=safe); load(f, weights_only=False); np.load(f, allow_pickle=True); eval(text); exec(text)
f.from_pretrained(p, trust_remote_code=True); subprocess.run(line, shell=True); compile(text, '', 'exec')"""
RUNS_NO_CODE = """import pickletools; torch.load(f, map_location='cpu', weights_only=True); subprocess.run(words)
np.load(f, allow_pickle=False); torch.compile(model); re.compile(text); model.eval()"""


@pytest.mark.parametrize(("lines", "can"), [(RUNS_CODE, True), (RUNS_NO_CODE, False)])
def test_the_walker_sees_what_could_run_code(lines: str, can: bool) -> None:
    for line in ast.parse(lines).body:
        assert any(map(can_run_code, ast.walk(line))) == can, ast.unparse(line)


def test_the_front_door_is_thin() -> None:
    for name in ("model_config.py", "dataset.py", "train.py", "generate.py"):
        lines = [line for line in (CHECKOUT / name).read_text().splitlines() if line.strip()]
        assert len(lines) <= 10, f"{name} has {len(lines)} lines"


MAX_LINES = 400  # of a file; most have under 300, but one idea is not split for the count


def test_files_stay_readable() -> None:
    long = {
        str(f.relative_to(PACKAGE)): n for f, _, _ in modules() if (n := len(f.read_text().splitlines())) > MAX_LINES
    }
    assert not long, f"split these: {long}"


# The words that a docstring does not begin with, and phrases that an engineer would not write: see CONTRIBUTING.md.
RIDDLES = "what whether how where who whom whose which why nothing nobody whoever as that those one all".split()  # noqa: SIM905
PHRASES = re.compile(r"\b(nobody|somebody|whoever|anew|foretold|goes on|is none|be had)\b")


def prose_of(source: str) -> Iterator[tuple[int, str, bool]]:
    """Yield each docstring and comment of a module: its line, its text, and whether it is a docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text, True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string, False


def unclear_prose(source: str) -> list[str]:
    """Return the lines of a module whose docstring begins as a riddle, or that contain a phrase to avoid."""
    lines = []
    for line, text, is_docstring in prose_of(source):
        first_word = (re.findall(r"[A-Za-z']+", text) or [""])[0].lower()
        if is_docstring and first_word in RIDDLES:
            lines.append(f"{line}: begins with {first_word!r}")
        lines += [f"{line}: {phrase!r}" for phrase in PHRASES.findall(text)]
    return lines


def test_docstrings_and_comments_are_plain() -> None:
    strays = [
        f"{file.relative_to(PACKAGE)}:{line}"
        for file, _, _ in modules()
        for line in unclear_prose(file.read_text(encoding="utf-8"))
    ]
    assert not strays, "\n".join(strays)


@pytest.mark.parametrize(
    ("source", "n"),
    [
        ('"""Whether a file is whole."""', 1),
        ('def f():\n    """What a step weighs, made anew."""', 2),
        ("x = 1  # nobody asks", 1),
        ('def f():\n    """Return what the step weighs."""', 0),
        ('text = "nobody"', 0),
    ],
)
def test_the_lint_sees_riddles_and_phrases(source: str, n: int) -> None:
    assert len(unclear_prose(source)) == n


@pytest.mark.parametrize(
    "statement", ["import light_llm", "import light_llm.config", "import light_llm.cli", "import light_llm.report"]
)
def test_importing_is_light_and_silent(statement: str) -> None:
    check = f"{statement}; import sys; print('torch' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert (child.stdout, child.stderr) == ("False\n", "")


def test_every_public_name_is_there() -> None:
    for name in light_llm.__all__:
        assert getattr(light_llm, name) and name in dir(light_llm)
        assert name in (light_llm.__doc__ or "") or name == "__version__", "help(light_llm) has a line for it"
    assert not {"Any", "Path", "import_module"} & set(dir(light_llm)) and "config" in dir(light_llm)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        light_llm.nothing  # noqa: B018


def test_requirements_are_the_projects() -> None:
    import tomllib

    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    lines = (CHECKOUT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["dependencies"]
