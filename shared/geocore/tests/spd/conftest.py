"""References with 60 digits."""

import mpmath
import pytest
from spd_cases import SPECTRA, matrix


@pytest.fixture(scope="session")
def exact():
    """Eigenvalues and eigenvectors of the float64 matrices with 60 digits."""
    found = {}
    with mpmath.workdps(60):
        for name, values in SPECTRA.items():
            X = matrix(values)
            found[name] = mpmath.eigsy(mpmath.matrix(X.tolist()))
    return found
