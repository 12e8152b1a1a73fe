"""Methods of others in peft's closed enumeration."""

import copy
import json
import pickle

import pytest


@pytest.fixture(scope="module")
def peft():
    """Imported here: it loads transformers, which every worker would do when it collects this file."""
    import peft.mapping

    return peft


@pytest.fixture(scope="module")
def ours():
    from geocore.integrations import peft

    return peft


def test_new_member_behaves_like_those_of_peft(peft, ours):
    PeftType, peft_type = peft.PeftType, ours.peft_type
    member = peft_type("GEOCORE_PROBE")
    assert member is PeftType.GEOCORE_PROBE is PeftType["GEOCORE_PROBE"] is PeftType("GEOCORE_PROBE")
    assert member in list(PeftType)
    assert json.loads(json.dumps({"peft_type": member})) == {"peft_type": "GEOCORE_PROBE"}
    assert pickle.loads(pickle.dumps(member)) is member
    assert copy.deepcopy(member) is member


def test_known_and_repeated_names_give_the_same_member(peft, ours):
    PeftType, peft_type = peft.PeftType, ours.peft_type
    assert peft_type("LORA") is PeftType.LORA
    count = len(PeftType)
    assert peft_type("GEOCORE_TWICE") is peft_type("GEOCORE_TWICE")
    assert len(PeftType) == count + 1


def test_a_method_is_registered_once(peft, ours):
    from peft.tuners.lora import LoraConfig, LoraModel

    class ProbeModel(LoraModel):
        prefix = "geocore_method_"

    ours.register_method("geocore_method", LoraConfig, ProbeModel)
    ours.register_method("geocore_method", LoraConfig, ProbeModel)
    assert peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[ours.peft_type("GEOCORE_METHOD")] is LoraConfig
    assert peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[ours.peft_type("GEOCORE_METHOD")] is ProbeModel


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["lora", "", "TWO WORDS"])
def test_names_that_no_enumeration_could_hold_are_refused(ours, name):
    with pytest.raises(ValueError, match="name must be an upper-case identifier"):
        ours.peft_type(name)
