"""METHOD_SUMMARY.

Source: <authors, title, venue, year>.
"""

from methodname.functional import rotate_pairs
from methodname.modules import PairRotation

__all__ = ["PairRotation", "__version__", "rotate_pairs"]
__version__ = "0.1.0"
