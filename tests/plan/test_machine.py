"""Machine files: those of the package, and what a file can get wrong."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.errors import ConfigError, LightLLMError
from light_llm.plan.machine import load_machine, machine_names, parse_machine

GPU: dict[str, Any] = {"kind": "H100", "flops": 1e15, "efficiency": 0.5, "bandwidth": 3e12, "memory": 8e10}
FILE: dict[str, Any] = {"gpus": 8, "machines": 2, "nvlink": 450e9, "nic": 400e9, "gpu": GPU}


@pytest.mark.parametrize("name", machine_names())
def test_the_machines_of_the_package_are_complete_and_marked(name: str) -> None:
    machine = load_machine(name)
    assert machine.assumed and machine.about and machine.machines is None and machine.nic
    assert int(name.rpartition("x")[2]) == machine.gpus
    machine.check_processes(4 * machine.gpus)


def test_a_machine_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '\ufeffgpus = 4\nnvlink = 1e11\n[gpu]\nkind="A100"\nflops=3e14\nefficiency=0.8\nbandwidth=2e12\nmemory=40e9'
    )
    machine = load_machine(str(path))
    assert (machine.name, machine.gpus, machine.nvlink, machine.nic, machine.assumed) == ("mine", 4, 1e11, None, False)
    assert machine.line(4) == machine.line(64) == 1e11


def test_the_slowest_link_of_a_ring() -> None:
    machine = parse_machine(FILE, "x")
    assert machine.line(8) == 450e9 and machine.line(16) == 400e9
    assert parse_machine(FILE | {"gpus": 1, "nic": 1e9}, "x").line(2) == 1e9


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"gpu": {}}, "gpu.kind"),
        ({"gpu": GPU | {"flops": None}}, "gpu.flops is missing.*989e12"),
        ({"gpu": GPU | {"flops": "fast"}}, "gpu.flops='fast'"),
        ({"gpu": GPU | {"flops": True}}, "gpu.flops=True"),
        ({"gpu": GPU | {"memory": 80}}, "gpu.memory=80 .*80e9"),
        ({"gpu": GPU | {"efficiency": 57}}, "gpu.efficiency=57"),
        ({"gpu": GPU | {"efficiency": float("nan")}}, "gpu.efficiency=nan"),
        ({"gpu": GPU | {"flop": 1}}, "gpu.flop; did you mean flops"),
        ({"gpu": GPU | {"kind": 100}}, "gpu.kind"),
        ({"gpu": "H100"}, r"\[gpu\]"),
        ({"gpus": None}, "gpus is missing"),
        ({"gpus": 2.0}, "gpus=2.0 .*whole number"),
        ({"gpus": 0}, "gpus=0"),
        ({"gpus": 10**5000}, "gpus="),
        ({"machines": 0}, "machines=0"),
        ({"nvlink": 900}, "nvlink=900 .*450e9"),
        ({"nic": -1.0}, "nic=-1"),
        ({"nvlnk": 1e11}, "nvlnk; did you mean nvlink"),
        ({"assumed": "yes"}, "assumed='yes'"),
        ({"about": 3}, "about=3"),
        ({"about": "a\x1b[2J"}, "about=.*x1b"),
        ({"gpu": GPU | {"kind": "H100\n"}}, "gpu.kind="),
    ],
)
def test_a_field_that_is_missing_or_wrong_is_named(change: dict[str, Any], named: str) -> None:
    tables = {key: value for key, value in (FILE | change).items() if value is not None}
    if isinstance(tables["gpu"], dict):
        tables["gpu"] = {key: value for key, value in tables["gpu"].items() if value is not None}
    with pytest.raises(ConfigError, match=named):
        parse_machine(tables, "x")


@pytest.mark.parametrize(
    ("W", "named"),
    [(17, "17.* 16 GPUs of x"), (12, "processes=8 or .*processes=16"), (24, "24.*16 GPUs")],
)
def test_processes_that_the_machines_cannot_take(W: int, named: str) -> None:
    parse_machine(FILE, "x").check_processes(16)
    with pytest.raises(ConfigError, match=named):
        parse_machine(FILE, "x").check_processes(W)


@pytest.mark.parametrize(("missing", "W"), [("nvlink", 4), ("nic", 16)])
def test_a_link_that_is_needed_and_unknown(missing: str, W: int) -> None:
    machine = parse_machine({key: value for key, value in FILE.items() if key != missing}, "x")
    machine.check_processes(1)
    with pytest.raises(ConfigError, match=f"x does not say {missing}"):
        machine.check_processes(W)


def test_a_file_that_is_no_machine_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'h100x9'; did you mean h100x8"):
        load_machine("h100x9")
    (tmp_path / "a.toml").write_text("gpus = [")
    with pytest.raises(ConfigError, match=r"a\.toml is not TOML"):
        load_machine(str(tmp_path / "a.toml"))
    (tmp_path / "b.toml").write_text("gpus = 8")
    with pytest.raises(ConfigError, match=r"b\.toml: the table \[gpu\]"):
        load_machine(str(tmp_path / "b.toml"))
    (tmp_path / "c.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match=r"c\.toml is too large"):
        load_machine(str(tmp_path / "c.toml"))
    with pytest.raises(ConfigError):
        load_machine(str(tmp_path))


json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*FILE, *GPU, "x"]), inner, max_size=6),
    max_leaves=8,
)


@given(
    change=st.dictionaries(st.sampled_from([*FILE, "about"]), json), gpu=st.dictionaries(st.sampled_from([*GPU]), json)
)
def test_any_table_is_a_machine_or_refused(change: dict[str, Any], gpu: dict[str, Any]) -> None:
    try:
        machine = parse_machine(FILE | {"gpu": GPU | gpu} | change, "x")
        machine.check_processes(2)
    except LightLLMError:
        return
    assert machine.gpus >= 1 and machine.gpu.flops > 0
