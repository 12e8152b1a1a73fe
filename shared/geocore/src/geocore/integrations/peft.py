"""What a method needs to become a method of peft."""

from typing import Any

try:
    from peft import PeftConfig, PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.tuners.tuners_utils import BaseTuner
    from peft.utils import register_peft_method
except ImportError as error:
    raise ImportError("geocore.integrations.peft needs peft: pip install 'geocore[peft]'") from error

__all__ = ["peft_type", "register_method"]


def peft_type(name: str) -> PeftType:
    """Member ``name`` of peft's enumeration of methods, made where it does not exist.

    peft 0.21 accepts methods of others but not their names: the enumeration is closed. A member that peft itself has, now or later,
    is returned as it is.

    Args:
        name: Upper-case name of the method.

    Raises:
        ValueError: If the name is not an upper-case identifier.

    Example:
        >>> peft_type("LORA").value
        'LORA'
    """
    if not (name.isidentifier() and name.isupper()):
        raise ValueError(f"name must be an upper-case identifier such as 'MONARCH', got {name!r}")
    if name in PeftType.__members__:
        return PeftType[name]
    member: Any = str.__new__(PeftType, name)
    member._name_, member._value_, member._sort_order_ = name, name, len(PeftType.__members__)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
    return member


def register_method(name: str, config_cls: type[PeftConfig], model_cls: type[BaseTuner]) -> None:
    """Register a tuner under the lower-case ``name``; its parameters carry the prefix ``<name>_``. Repeating it changes nothing.

    Args:
        name: Lower-case name of the method.
        config_cls: Its configuration.
        model_cls: Its tuner.
    """
    if peft_type(name.upper()) not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls, prefix=f"{name}_")
