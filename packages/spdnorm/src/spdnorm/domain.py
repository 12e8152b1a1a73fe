"""Domain-specific statistics and the momentum schedule of Kobler et al. (NeurIPS 2022)."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geocore._checks import check_option, check_positive_int
from spdnorm._base import RiemannianBatchNorm, StatsGrad
from spdnorm._geometry import BuresGeometry, Geometry
from spdnorm._metrics import METRICS, geometry_maker
from spdnorm._statistics import RunningStatistics, check_momentum
from spdnorm._weights import Param, SPDWeight
from spdnorm.functional import Domain

__all__ = ["DomainSPDBatchNorm", "MomentumSchedule"]


class DomainSPDBatchNorm(RiemannianBatchNorm):
    """Batch normalisation with statistics of its own for every domain (a subject, a session, a site) and shared ``W``, ``s`` (and ``M``).

    In training every domain in the batch is centred at its own mean. In evaluation ``test_stats_mode="buffer"`` uses the running
    statistics of the domain; ``"refit"`` takes those of the batch at hand, unlabelled, and keeps them.

    Args:
        num_features: Size ``n`` of the matrices.
        metric: As ``SPDBatchNorm``, or ``"gbw"``: Bures-Wasserstein with a learnable ``M``.
        domains: Identifiers, ints or strings.
        test_stats_mode: ``"buffer"`` or ``"refit"``.
        unseen: A domain that is not there: ``"raise"`` (KeyError), or ``"add"``, with fresh statistics.
        theta, alpha, beta, bias, scale, momentum, eps, karcher_steps, variance, bias_map, domain, clip, param, dtype, stats_grad,
            train_momentum, check, sync, process_group, device: As ``SPDBatchNorm``. With ``sync`` every process must hold the same
            domains in every batch.

    Shape:
        ``(N, ..., n, n)`` and ``N`` identifiers to the same as the matrices.

    Raises:
        ValueError, TypeError, ImportError: As ``SPDBatchNorm``; ValueError if an identifier comes twice.

    Example:
        >>> layer = DomainSPDBatchNorm(20, "airm", domains=["s1", "s2"])
        >>> layer(torch.eye(20, dtype=torch.float64).expand(4, 20, 20), ["s1", "s1", "s2", "s2"]).shape
        torch.Size([4, 20, 20])
    """

    def __init__(
        self,
        num_features: int,
        metric: str | Any = "airm",
        domains: Iterable[Hashable] = (),
        *,
        test_stats_mode: Literal["buffer", "refit"] = "buffer",
        unseen: Literal["raise", "add"] = "raise",
        theta: float = 1.0,
        alpha: float = 1.0,
        beta: float = 0.0,
        bias: bool = True,
        scale: bool = True,
        momentum: float | None = 0.1,
        eps: float = 1e-5,
        karcher_steps: int = 1,
        variance: Literal["mean", "scalar", "none"] = "mean",
        bias_map: Literal["sqrt", "cholesky"] = "sqrt",
        domain: Domain | None = None,
        clip: float = 1e-3,
        param: Param = "exp",
        dtype: torch.dtype = torch.float64,
        stats_grad: StatsGrad = "none",
        train_momentum: float | None = None,
        check: bool | None = None,
        sync: bool = False,
        process_group: Any = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_option("test_stats_mode", test_stats_mode, ("buffer", "refit"))
        check_option("unseen", unseen, ("raise", "add"))
        check_option("variance", variance, ("mean", "scalar", "none"))
        check_option("bias_map", bias_map, ("sqrt", "cholesky"))
        if isinstance(metric, str):
            check_option("metric", metric, (*METRICS, "gbw"))
        check_positive_int("num_features", num_features)
        self._setup(
            num_features,
            bias=bias,
            scale=scale,
            eps=eps,
            karcher_steps=karcher_steps,
            variance="none" if variance == "none" else "mean",
            stats_grad=stats_grad,
            param=param,
            check=check,
            sync=sync,
            process_group=process_group,
            dtype=dtype,
            device=device,
        )
        self.num_features, self.metric, self.test_stats_mode, self.unseen = num_features, metric, test_stats_mode, unseen
        self._options: dict[str, Any] = {"momentum": momentum, "train_momentum": train_momentum}
        self._make = geometry_maker(
            "bw" if isinstance(metric, str) and metric == "gbw" else metric,
            num_features,
            theta=theta,
            alpha=alpha,
            beta=beta,
            bias_map=bias_map,
            domain=domain,
            clip=clip,
            scaled=scale or variance != "none",
        )
        self.metric_matrix = None
        if isinstance(metric, str) and metric == "gbw":
            self.metric_matrix = SPDWeight(torch.eye(num_features, dtype=dtype, device=device), param=param)
        self.statistics = nn.ModuleDict()
        for name in domains:
            self.add_domain(name)

    @property
    def domains(self) -> list[str]:
        """Identifiers of the domains there are, as strings."""
        return [key.removeprefix("domain_").replace("\N{ONE DOT LEADER}", ".") for key in self.statistics]

    @staticmethod
    def _key(name: Hashable) -> str:
        # a module name may hold no dot and must not be an attribute of the container
        return "domain_" + str(name).replace(".", "\N{ONE DOT LEADER}")

    def add_domain(self, name: Hashable) -> None:
        """Give a new domain statistics of its own: mean ``I``, variance 1.

        Raises:
            ValueError: If it is there already.
        """
        key = self._key(name)
        if key in self.statistics:
            raise ValueError(f"domains must be different, got {name!r} twice")
        self.statistics[key] = RunningStatistics(self.num_features, dtype=self.s.dtype, device=self.s.device, **self._options)

    def statistics_of(self, name: Hashable) -> RunningStatistics:
        """Statistics of a domain: ``running_mean``, ``running_var``, ``num_batches_tracked``.

        Raises:
            KeyError: If there is no such domain and ``unseen`` is ``"raise"``.
        """
        key = self._key(name)
        if key not in self.statistics:
            if self.unseen == "raise":
                known = ", ".join(map(repr, self.domains)) or "none"
                raise KeyError(f"no statistics for domain {name!r}; known domains: {known}. Use add_domain, or unseen='add'.")
            self.add_domain(name)
        found = self.statistics[key]
        assert isinstance(found, RunningStatistics)
        return found

    def geometry(self) -> Geometry:
        """The metric with the present parameters."""
        kind, options = self._make
        make: Any = kind
        if self.metric_matrix is not None:
            assert kind is BuresGeometry
            options = {**options, "M": self.metric_matrix()}
        return make(self.W, **options)

    def _groups(self, X: Tensor, domains: Any) -> dict[Hashable, list[int]]:
        if isinstance(domains, Tensor):
            domains = domains.tolist()
        if isinstance(domains, str) or not isinstance(domains, Sequence):
            domains = [domains] * (X.shape[0] if X.ndim > 2 else 1)
        if X.ndim < 3 or len(domains) != X.shape[0]:
            raise ValueError(
                f"domains must be one identifier, or one for each of the {X.shape[0] if X.ndim > 2 else 0} items of X (N, ..., n, n)"
            )
        groups: dict[Hashable, list[int]] = {}
        for i, name in enumerate(domains):
            groups.setdefault(name, []).append(i)
        return groups

    def forward(self, X: Float[Tensor, "b *rest n n"], domains: Any) -> Float[Tensor, "b *rest n n"]:
        """Normalise every domain by its statistics.

        Args:
            X: SPD matrices, shape ``(N, ..., n, n)``.
            domains: One identifier for all, or ``N`` of them: a sequence, or an integer tensor, which is read from its device.

        Returns:
            Same shape and dtype.

        Raises:
            KeyError: If a domain is unknown and ``unseen`` is ``"raise"``; the message names it.
            ValueError, TypeError, NotPositiveDefiniteError: As ``SPDBatchNorm.forward``.
        """
        self._check_input(X, self.num_features)
        groups = self._groups(X, domains)
        found = {name: self.statistics_of(name) for name in groups}
        if not groups:
            return X
        parts, order = [], []
        for name, index in groups.items():
            part = X if len(index) == len(X) else X[index]
            if not self.training and self.test_stats_mode == "refit":
                self._refit(part.detach(), found[name])
            parts.append(self._normalise(part, found[name], training=self.training))
            order += index
        if len(parts) == 1:
            return parts[0]
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[back.to(X.device)]

    @torch.no_grad()
    def refit(self, X: Float[Tensor, "b *rest n n"], domains: Any) -> None:
        """Set the statistics of every domain in a batch to those of the batch alone; add domains that are new.

        Raises:
            ValueError, TypeError, NotPositiveDefiniteError: As ``forward``.
        """
        self._check_input(X, self.num_features)
        for name, index in self._groups(X, domains).items():
            if self._key(name) not in self.statistics:
                self.add_domain(name)
            self._refit(X[index], self.statistics_of(name))

    def diagnostics(self) -> dict[str, float]:
        """Numbers to watch, as ``GBWBatchNorm.diagnostics``; the running means give the largest condition number."""
        out = self._common_diagnostics()
        if self.metric_matrix is not None:
            out |= self._condition("M", self.metric_matrix())
        if len(self.statistics):
            means = torch.stack([self.statistics_of(name).running_mean for name in self.domains])
            out |= self._condition("running_mean", means)
        return out

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if self.unseen == "add":  # domains met in training come with the checkpoint
            start = prefix + "statistics."
            for key in {k[len(start) :].split(".")[0] for k in state_dict if k.startswith(start)} - set(self.statistics):
                self.statistics[key] = RunningStatistics(self.num_features, dtype=self.s.dtype, device=self.s.device, **self._options)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """Configuration for ``repr``."""
        name = self.metric if isinstance(self.metric, str) else type(self.metric).__name__
        return f"{self.num_features}, metric={name!r}, test_stats_mode={self.test_stats_mode!r}, unseen={self.unseen!r}"


class MomentumSchedule:
    r"""Momentum of the training statistics that falls over the epochs (Kobler et al. 2022).

    With batches of ``b`` matrices and a reference ``b0``, ``rho = (b / b0)^(1/E)`` and
    ``eta(e) = 1 - (rho^(E max(E - e, 0) / (E - 1)) - rho^E)``: from 1 at the first epoch down to ``rho^E = b / b0``
    after ``E`` epochs. The momentum of the statistics for evaluation is ``1 - tau0``.

    Args:
        model: Its batch normalisations made with ``train_momentum`` are driven.
        batch_size: Matrices per domain and batch, ``b``.
        epochs: ``E``, at least 2: how long the momentum falls.
        reference: ``b0``.
        tau0: Memory of the statistics for evaluation.

    Raises:
        ValueError: If an argument is out of range, or no layer keeps training statistics.
        TypeError: If a size is not an int.

    Example:
        >>> model = torch.nn.Sequential(SPDBatchNorm(20, train_momentum=1.0))
        >>> schedule = MomentumSchedule(model, batch_size=10, epochs=20)
        >>> schedule.step()  # after every epoch
    """

    def __init__(self, model: nn.Module, batch_size: int, epochs: int, *, reference: int = 64, tau0: float = 0.9) -> None:
        check_positive_int("batch_size", batch_size)
        check_positive_int("epochs", epochs, minimum=2)
        check_positive_int("reference", reference)
        check_momentum("tau0", tau0)
        self.layers = [m for m in model.modules() if isinstance(m, RunningStatistics) and m.renormalise]
        if not self.layers:
            raise ValueError("model must hold a batch normalisation made with train_momentum, found none")
        self.batch_size, self.epochs, self.reference, self.tau0 = batch_size, epochs, reference, tau0
        self.epoch = 1
        for layer in self.layers:
            layer.momentum = 1.0 - tau0
        self._set()

    def momentum(self, epoch: int) -> float:
        """``eta(epoch)``, within [0, 1]; epochs count from 1."""
        E = self.epochs
        rho = (self.batch_size / self.reference) ** (1.0 / E)
        return min(1.0, max(0.0, 1.0 - (rho ** (E * max(E - epoch, 0) / (E - 1)) - rho**E)))

    def _set(self) -> None:
        for layer in self.layers:
            layer.train_momentum = self.momentum(self.epoch)

    def step(self) -> None:
        """Go to the next epoch."""
        self.epoch += 1
        self._set()

    def state_dict(self) -> dict[str, int]:
        """The epoch."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take up at a saved epoch."""
        self.epoch = int(state["epoch"])
        self._set()
