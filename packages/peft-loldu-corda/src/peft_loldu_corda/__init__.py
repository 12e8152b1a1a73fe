"""LoLDU and CorDA adapters for Hugging Face PEFT: decompose the pretrained weight, train a small piece of it.

Importing this package registers LOLDU and CORDA with peft; do so before loading a saved adapter, too. LoLDU: arXiv 2410.13618.
CorDA: Context-Oriented Decomposition Adaptation of Large Language Models, NeurIPS 2024, arXiv 2406.05223.
"""

from peft_loldu_corda.corda.adapter import CordaModel, register_corda
from peft_loldu_corda.corda.allocate import energy_ranks
from peft_loldu_corda.corda.collect import collect_input_stats
from peft_loldu_corda.corda.config import CordaLoraConfig
from peft_loldu_corda.corda.convert import LoraConversion, corda_to_lora, load_corda_adapter, save_corda_adapter
from peft_loldu_corda.corda.decompose import CordaDecomposition, decompose
from peft_loldu_corda.corda.preprocess import apply_corda_init, preprocess_corda
from peft_loldu_corda.corda.stats import InputStats, Moment
from peft_loldu_corda.errors import CalibrationError
from peft_loldu_corda.functional import LolduFactors, loldu_factors
from peft_loldu_corda.loldu.config import LolduConfig
from peft_loldu_corda.loldu.convert import convert_to_lora, preprocess_loldu
from peft_loldu_corda.loldu.layer import LolduLayer
from peft_loldu_corda.loldu.model import LolduModel, register_loldu

__all__ = [
    "CalibrationError",
    "CordaDecomposition",
    "CordaLoraConfig",
    "CordaModel",
    "InputStats",
    "LolduConfig",
    "LolduFactors",
    "LolduLayer",
    "LolduModel",
    "LoraConversion",
    "Moment",
    "__version__",
    "apply_corda_init",
    "collect_input_stats",
    "convert_to_lora",
    "corda_to_lora",
    "decompose",
    "energy_ranks",
    "load_corda_adapter",
    "loldu_factors",
    "preprocess_corda",
    "preprocess_loldu",
    "register",
    "save_corda_adapter",
]
__version__ = "0.1.0"


def register() -> None:
    """Register LOLDU and CORDA with peft; importing the package has done it already, repeating it changes nothing.

    Example:
        >>> import peft
        >>> register()
        >>> peft.PeftType("LOLDU").name
        'LOLDU'
    """
    register_loldu()
    register_corda()


register()
