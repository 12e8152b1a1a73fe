"""The runtime type checker of the shape-checked test run: beartype, for which an int is a float, as for static checkers."""

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
