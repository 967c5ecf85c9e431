"""A package put off: its modules at once, its own names when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from boxes import open_box, shown  # type: ignore[import-not-found]

from lis_kernel.sandbox.launch import GUEST

MADE = {
    "__init__.py": "from .heavy import weight\nfrom .light import feather\n__version__ = '3'\n"
    "__all__ = ['weight', 'feather']\n",
    "light.py": "feather = 1\n",
    "heavy.py": "weight = 1000\n",
}


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import pack.light; print(pack.light.feather)", "1 False"),
        ("from pack import feather; print(feather)", "1 False"),
        ("from pack import weight; print(weight)", "1000 True"),
        ("import pack; print(pack.__version__)", "3 True"),
        ("from pack import *; print(weight + feather)", "1001 True"),
        ("import pack; print(hasattr(pack, 'no'), hasattr(pack, '__no__'))", "False False True"),
        ("import pack; print(pack.__name__, len(pack.__path__))", "pack 1 False"),
        ("import importlib, pack; importlib.reload(pack); print(pack.weight)", "1000 True"),
    ],
)
def test_what_is_loaded_when(tmp_path, code, said) -> None:
    (tmp_path / "pack").mkdir()
    for name, text in MADE.items():
        (tmp_path / "pack" / name).write_text(text)
    program = f"""
import sys
sys.path[:0] = [{str(GUEST)!r}, {str(tmp_path)!r}]
import lazy
lazy.package("pack", "light")
lazy.package("nowhere", "light")
{code.replace("; print(", chr(10) + "print(", 1)}
print("pack.heavy" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == said.split(), done.stderr


@pytest.mark.bwrap
async def test_a_kernel_is_without_and_a_cell_gets_all_of_it() -> None:
    code = """
import sys
print("jupyter_client.manager" in sys.modules)
import jupyter_client
print(jupyter_client.__version__[0].isdigit(), jupyter_client.KernelManager.__name__)
from jupyter_client import *
print(KernelClient.__name__, find_connection_file.__name__)
"""
    async with open_box() as session:
        result = await session.execute(code)
    assert shown(result).split() == [
        "False",
        *("True", "KernelManager", "KernelClient", "find_connection_file"),
    ]
