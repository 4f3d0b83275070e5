"""The job files in examples/: their shell and YAML are valid, and torchrun and light-llm accept their commands."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from light_llm.cli.train import TrainFlags, parse_train

EXAMPLES = Path(__file__).parents[1] / "examples"


def shell_command(script: str) -> list[str]:
    """Return the words of the torchrun command in a script, with a value for each variable."""
    joined = script.replace("\\\n", " ")
    line = next(line for line in joined.splitlines() if "torchrun" in line and not line.lstrip().startswith("#"))
    words = shlex.split(re.sub(r"\$\{?\w+(:-\d+)?\}?", "2", line))
    return words[words.index("torchrun") + 1 :]


def pod_of(jobset: dict[str, Any]) -> dict[str, Any]:
    """Return the specification of the pods of a JobSet."""
    (job,) = jobset["spec"]["replicatedJobs"]
    pod: dict[str, Any] = job["template"]["spec"]["template"]["spec"]
    return pod


def commands() -> dict[str, list[str]]:
    """Return the arguments that each example gives to torchrun."""
    jobset: dict[str, Any] = yaml.safe_load((EXAMPLES / "jobset.yaml").read_text(encoding="utf-8"))
    (container,) = pod_of(jobset)["containers"]
    pod = [re.sub(r"\$\(\w+\)", "1", word) for word in container["command"]]
    return {
        "slurm.sbatch": shell_command((EXAMPLES / "slurm.sbatch").read_text(encoding="utf-8")),
        "skypilot.yaml": shell_command(yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text(encoding="utf-8"))["run"]),
        "jobset.yaml": pod[1:],
    }


@pytest.mark.parametrize("name", ["slurm.sbatch", "skypilot.yaml", "jobset.yaml"])
def test_torchrun_and_train_accept_the_command(name: str) -> None:
    words = commands()[name]
    # Newer than torch 2.10; the variable is ignored there.
    assert not any(word.startswith("--shutdown-timeout") for word in words)
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT" in (EXAMPLES / name).read_text(encoding="utf-8")
    launcher = get_args_parser().parse_args(words)
    assert launcher.module and launcher.training_script == "light_llm"
    assert int(launcher.nnodes) == 2 and int(launcher.nproc_per_node) > 1
    command, *flags = launcher.training_script_args
    assert command == "train"
    recipe = flags[flags.index("--config") + 1] if "--config" in flags else ""
    # The recipe of the Slurm example is the user's own file.
    flags = ["shakespeare-best" if word == recipe == "2" else word for word in flags]
    parsed, given, _ = parse_train(TrainFlags, flags, prog="light-llm train", about="")
    # Every one may be started again by its scheduler, and must then continue its run.
    assert parsed.requeue and {"out", "config"} <= given


def test_the_shell_of_the_examples_is_valid() -> None:
    run = yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text(encoding="utf-8"))["run"]
    for script in ((EXAMPLES / "slurm.sbatch").read_text(encoding="utf-8"), run):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_pods_of_the_jobset_find_the_first_one() -> None:
    """JobSet names a pod SET-JOB-REPLICA-INDEX, in a service with the name of the set."""
    jobset = yaml.safe_load((EXAMPLES / "jobset.yaml").read_text(encoding="utf-8"))
    name, (job,) = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    arguments = get_args_parser().parse_args(commands()["jobset.yaml"])
    assert arguments.master_addr == f"{name}-{job['name']}-0-0.{name}"
    assert spec["completions"] == spec["parallelism"] == int(arguments.nnodes)
    # The pod is killed after its grace period, so torchrun must have given up on its processes before that.
    (container,) = pod_of(jobset)["containers"]
    (timeout,) = [int(v["value"]) for v in container["env"] if v["name"] == "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]
    assert timeout < pod_of(jobset)["terminationGracePeriodSeconds"]
