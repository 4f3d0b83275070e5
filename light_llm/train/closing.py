"""The last thing of a run: its report. All that counts is saved by then, so nothing that goes wrong here ends a run."""

import shlex

from ..checkpoint import RunFolder
from ..errors import LightLLMError
from ..report.write import write_report


def report_line(folder: RunFolder) -> str:
    """Write `report.html`, and say where it is or why it is not there."""
    try:
        return f"report   {write_report(folder.path, folder.files)}"
    except (OSError, LightLLMError) as error:
        why = getattr(error, "strerror", None) or str(error)
    except Exception as error:  # a bug in a picture must not look like one in the run
        why = f"{type(error).__name__}: {error}"
    return f"notice   there is no report ({why}); try again with: light-llm report {shlex.quote(str(folder.path))}"
