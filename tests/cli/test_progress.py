"""Signs of life: on a terminal only, and gone when the work is done."""

import io
import sys

import pytest

from light_llm.cli.progress import waiting


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Screen])
def test_what_takes_long_is_named_on_a_terminal(stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out, err = io.StringIO(), stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with waiting("loading the model") as say:
        assert ("loading the model" in err.getvalue()) == (stream is Screen)
        say("a result")
    with waiting("again", quiet=True):
        pass
    assert out.getvalue() == "a result\n" and "again" not in err.getvalue()
    if stream is Screen:
        assert "0:00:00" in err.getvalue() and err.getvalue().endswith("\x1b[2K")  # the line is erased
    else:
        assert err.getvalue() == ""
