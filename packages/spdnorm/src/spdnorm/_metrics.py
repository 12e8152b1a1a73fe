"""From names and metric objects to geometries."""

from typing import Any, Literal

from geocore import spd
from geocore._checks import check_option
from spdnorm import functional as F
from spdnorm._geometry import AffineInvariantGeometry, BuresGeometry, ChartGeometry, Geometry, MetricGeometry

__all__ = ["METRICS", "geometry_maker"]

METRICS = ("airm", "lem", "lcm", "pem", "bw")


def geometry_maker(
    metric: str | Any,
    n: int,
    *,
    theta: float,
    alpha: float,
    beta: float,
    bias_map: Literal["sqrt", "cholesky"],
    domain: F.Domain | None,
    clip: float,
    scaled: bool,
) -> tuple[type[Geometry], dict[str, Any]]:
    """Class and options of the geometry that a name or a ``geocore.spd`` metric stands for.

    Raises:
        ValueError, TypeError: As ``SPDBatchNorm``.
    """
    F.check_theta(theta)
    M = None
    if not isinstance(metric, str):
        if isinstance(metric, spd.Deformed):
            metric, theta = metric.metric, theta * metric.theta
        if isinstance(metric, spd.PowerEuclidean):
            metric, theta = "pem", theta * metric.theta
        elif isinstance(metric, spd.AffineInvariant | spd.LogEuclidean):
            alpha, beta = metric.alpha, metric.beta
            metric = "airm" if isinstance(metric, spd.AffineInvariant) else "lem"
        elif isinstance(metric, spd.LogCholesky):
            metric = "lcm"
        elif isinstance(metric, spd.GeneralizedBuresWasserstein):
            metric, M = "bw", metric.M
        elif isinstance(metric, spd.BuresWasserstein):
            metric = "bw"
        elif all(callable(getattr(metric, name, None)) for name in ("exp", "log", "transport", "geodesic", "inner")):
            if theta != 1:
                raise ValueError(f"theta must be 1 with a metric of another kind, got {theta}; deform the metric with geocore.spd.Deformed")
            return MetricGeometry, {"metric": metric}
        else:
            raise TypeError(
                f"metric must be one of {', '.join(map(repr, METRICS))} or a metric of geocore.spd, got {type(metric).__name__}"
            )
    check_option("metric", metric, METRICS)
    if domain is not None:
        check_option("domain", domain, ("ignore", "clip", "raise"))
    if not clip > 0:
        raise ValueError(f"clip must be positive, got {clip}")
    if not alpha > 0 or not beta > -alpha / n:
        raise ValueError(f"alpha must be positive and beta more than -alpha / n = {-alpha / n:.3g}, got alpha={alpha}, beta={beta}")
    if (beta != 0 and metric in ("lcm", "bw")) or (alpha != 1 and metric in ("lcm", "bw")):
        raise ValueError(f"alpha and beta must be 1 and 0 for metric={metric!r}, got {alpha} and {beta}; 'airm', 'lem' and 'pem' have them")
    if metric == "bw":
        return BuresGeometry, {"M": M, "theta": theta, "domain": domain or "ignore", "clip": clip}
    if metric == "airm":
        return AffineInvariantGeometry, {"theta": theta, "alpha": alpha, "beta": beta, "bias_map": bias_map, "scaled": scaled}
    if metric == "pem" and domain == "ignore":
        raise ValueError(
            "domain must be 'clip' or 'raise' for metric='pem', got 'ignore': outside the image of the chart there is no matrix"
        )
    return ChartGeometry, {"chart": metric, "theta": theta, "alpha": alpha, "beta": beta, "domain": domain or "clip", "clip": clip}
