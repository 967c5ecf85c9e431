"""`python -m lis_kernel` is the command `lis`."""

from lis_kernel.cli import main

main()
