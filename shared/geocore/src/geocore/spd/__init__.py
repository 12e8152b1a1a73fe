"""SPD matrices: matrix functions with exact gradients, Riemannian metrics, means, parametrisations, covariance estimators.

Derivatives are right where those of an eigendecomposition are not: at repeated and nearly repeated eigenvalues, at any scale, twice.
Nothing is clamped unless asked for: an indefinite matrix is an error that says which one and by how much. Matrices are real, in the last
two dimensions, everything before is batch. Submodules: ``cov``, ``parametrize``; manifolds for geoopt: ``geocore.integrations.geoopt_spd``.
"""

from geocore.spd import cov, parametrize
from geocore.spd._affine import AffineInvariant, Stein
from geocore.spd._averages import MeanInfo
from geocore.spd._bures import BuresWasserstein, GeneralizedBuresWasserstein
from geocore.spd._checks import NotPositiveDefiniteError
from geocore.spd._cholesky import BWCholesky, LogCholesky, PowerCholesky
from geocore.spd._equations import generalized_lyapunov, lyapunov, sylvester
from geocore.spd._flat import Deformed, LogEuclidean, PowerEuclidean
from geocore.spd._functions import eigh, expm, invm, invsqrtm, logm, powm, sqrtm, sqrtm_invsqrtm, sym
from geocore.spd._general import clamp_eig, frechet, funcm
from geocore.spd._metric import Metric
from geocore.spd._nearest import assert_spd, is_spd, nearest_spd
from geocore.spd._spectral import SymEig
from geocore.spd._transport import bw_transport
from geocore.spd._vectorize import cholesky_unvector, cholesky_vector, unvech, vech
from geocore.spd.parametrize import SPDParameter

__all__ = [
    "AffineInvariant",
    "BWCholesky",
    "BuresWasserstein",
    "Deformed",
    "GeneralizedBuresWasserstein",
    "LogCholesky",
    "LogEuclidean",
    "MeanInfo",
    "Metric",
    "NotPositiveDefiniteError",
    "PowerCholesky",
    "PowerEuclidean",
    "SPDParameter",
    "Stein",
    "SymEig",
    "assert_spd",
    "bw_transport",
    "cholesky_unvector",
    "cholesky_vector",
    "clamp_eig",
    "cov",
    "eigh",
    "expm",
    "frechet",
    "funcm",
    "generalized_lyapunov",
    "invm",
    "invsqrtm",
    "is_spd",
    "logm",
    "lyapunov",
    "nearest_spd",
    "parametrize",
    "powm",
    "sqrtm",
    "sqrtm_invsqrtm",
    "sylvester",
    "sym",
    "unvech",
    "vech",
]
