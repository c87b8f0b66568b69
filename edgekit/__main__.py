"""``python -m edgekit`` is the ``edgekit`` program."""

from edgekit.cli import main

main()
