"""The network as the sandbox sees it; called by boot.py before the kernel.

`check_wall` proves that there is no way out but the proxy, without sending anything: to connect a
datagram socket only asks for a route. `start_forwarder` opens 127.0.0.1:3128 where the proxy's
socket is there, and sets the variables that programs look at.
"""

import os
import socket
import subprocess
import sys

PORT = 3128
ELSEWHERE = (
    (socket.AF_INET, "192.0.2.1"),
    (socket.AF_INET, "169.254.169.254"),
    (socket.AF_INET6, "2001:db8::1"),
)


def check_wall():
    """End this process if anything but itself could be reached directly."""
    names = sorted(name for _, name in socket.if_nameindex())
    if names not in ([], ["lo"]):
        sys.exit(f"the sandbox's network wall is missing: it has the interfaces {names}")
    for family, address in ELSEWHERE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((address, 53))
        except OSError:
            continue
        sys.exit(f"the sandbox's network wall is missing: there is a route to {address}")


def start_forwarder(path, no_proxy):
    """Listen, leave the rest to a process of its own, and tell programs about it."""
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "forward.py")
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", PORT))
        listening.listen(128)  # what connects before the process runs waits here
        subprocess.Popen(
            [sys.executable, "-I", "-S", here, str(listening.fileno()), path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(listening.fileno(),),
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{PORT}"
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ[name] = os.environ[name.upper()] = url
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(no_proxy)
