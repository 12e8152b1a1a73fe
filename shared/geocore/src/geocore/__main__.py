"""``python -m geocore`` is the ``geocore`` command."""

from geocore.cli import main

main()
