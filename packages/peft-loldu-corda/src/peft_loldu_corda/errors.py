"""The errors of this package that have a name of their own."""

__all__ = ["CalibrationError"]


class CalibrationError(RuntimeError):
    """The calibration data cannot give what CorDA needs: a layer without tokens, values that are not finite, a hopeless covariance."""
