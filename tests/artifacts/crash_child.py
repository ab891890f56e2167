"""The process that is killed: `crash_child.py ROOT SCENARIO MODEL_DIR [STORE_DIR]`, under strace.

Everything before the mark is not counted. Nothing is imported but the standard library and our own.
"""

import os
import sys
from pathlib import Path

MARK = b"from here on"
REFUSED = 3


def main(root: str, name: str, model_dir: str, store_dir: str = "") -> None:
    """Open the store and act, with the mark before what is to be killed; say what error came of it."""
    sys.path.insert(0, root)
    from agent.core.errors import AgentError  # noqa: PLC0415 - likewise
    from tests.artifacts.crash_scenarios import FULL, SCENARIOS, Place  # noqa: PLC0415 - the path is set above

    scenario = (SCENARIOS | FULL)[name]
    place = Place(Path(model_dir), Path(store_dir) if store_dir else None)
    nowhere = os.open("/dev/null", os.O_WRONLY)
    try:
        if scenario.at_open:
            os.write(nowhere, MARK)
        store = place.open()
        if not scenario.at_open:
            os.write(nowhere, MARK)
        scenario.act(store)
    except AgentError as error:
        print(error, flush=True)
        os._exit(REFUSED)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
