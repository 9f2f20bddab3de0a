"""`tests.orphans`."""

import subprocess
import sys
from pathlib import Path

import psutil

_SCRIPT = """
import sys, threading
from tests.orphans import Server
def start():
    tree = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '600'])"]
    print(Server(tree, start_new_session=True).pid, flush=True)
thread = threading.Thread(target=start)
thread.start()
thread.join()
sys.stdin.read()
"""


def test_servers_outlive_the_thread_that_started_them_and_not_the_process() -> None:
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        while not server.children():
            assert server.is_running()
        family = [server, *server.children()]
        parent.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
