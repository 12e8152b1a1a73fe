"""Methods of others in peft's closed enumeration."""

import copy
import json
import pickle

import pytest
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import LoraConfig, LoraModel

from geocore.integrations.peft import peft_type, register_method


def test_new_member_behaves_like_those_of_peft():
    member = peft_type("GEOCORE_PROBE")
    assert member is PeftType.GEOCORE_PROBE is PeftType["GEOCORE_PROBE"] is PeftType("GEOCORE_PROBE")
    assert member in list(PeftType)
    assert json.loads(json.dumps({"peft_type": member})) == {"peft_type": "GEOCORE_PROBE"}
    assert pickle.loads(pickle.dumps(member)) is member
    assert copy.deepcopy(member) is member


def test_known_and_repeated_names_give_the_same_member():
    assert peft_type("LORA") is PeftType.LORA
    count = len(PeftType)
    assert peft_type("GEOCORE_TWICE") is peft_type("GEOCORE_TWICE")
    assert len(PeftType) == count + 1


class ProbeModel(LoraModel):
    prefix = "geocore_method_"


def test_a_method_is_registered_once():
    register_method("geocore_method", LoraConfig, ProbeModel)
    register_method("geocore_method", LoraConfig, ProbeModel)
    assert PEFT_TYPE_TO_CONFIG_MAPPING[peft_type("GEOCORE_METHOD")] is LoraConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[peft_type("GEOCORE_METHOD")] is ProbeModel


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["lora", "", "TWO WORDS"])
def test_names_that_no_enumeration_could_hold_are_refused(name):
    with pytest.raises(ValueError, match="name must be an upper-case identifier"):
        peft_type(name)
