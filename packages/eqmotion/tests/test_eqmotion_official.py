import pytest
import torch

from eqmotion import EqMotion
from eqmotion._reference import eqmotion_reference
from eqmotion.official import official_state_dict

VARIANTS = {
    "particle": {"n_layers": 3},
    "skeleton": {"agent_tokens": 5, "n_categories": 4, "n_null_categories": 2, "n_layers": 2},
    "pedestrian": {"n_modes": 3, "n_categories": 4, "n_null_categories": 2, "n_layers": 2},
}


def source(variant, channels=6, width=8):
    return EqMotion(7, 5, channels=channels, hidden_dim=width, legacy_angle=True, **VARIANTS[variant])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("channels", [6, 8])
def test_assumed_layout_comes_back(variant, channels, tmp_path):
    """With 8 channels all square maps have one shape, and names decide."""
    model, x = source(variant, channels), torch.randn(2, 5, 7, 2)
    weights = official_state_dict(model)
    torch.save(weights, tmp_path / "w.pt")
    wrapped = {"state_dict": {f"module.{name}": w for name, w in weights.items()}}
    for given in (weights, wrapped, tmp_path / "w.pt"):
        loaded = EqMotion.from_official(given, variant)
        assert not loaded.training
        assert loaded.config["n_null_categories"] == model.config["n_null_categories"]
        with torch.no_grad():
            out, want = loaded(x), eqmotion_reference(model, x)
        for a, b in zip(out, want, strict=True):
            torch.testing.assert_close(a, b, atol=2e-6, rtol=0)


def test_sizes_with_the_dead_modules_are_the_official_ones():
    weights = official_state_dict(EqMotion(20, 20))
    assert sum(w.numel() for w in weights.values()) == 468_166
    dead = [w for name, w in weights.items() if name.startswith("gcl_") and name.split(".")[1] in ("coord_mlp", "node_att_mlp")]
    assert sum(w.numel() for w in dead) == 49_924
    assert EqMotion.from_official(weights, tau=0.5).reasoners[0].tau == 0.5


def test_unknown_names_are_settled_by_key_map():
    model = source("particle", 8)
    renamed = {}
    for name, w in official_state_dict(model, dead=False).items():
        for word, other in (("coord_vel", "alpha"), ("layer_q", "beta"), ("layer_k", "gamma")):
            name = name.replace(f"gcl_0.{word}", f"gcl_0.{other}")
        renamed[name] = w
    renamed["gcl_0.extra.weight"] = torch.zeros(1, 1)
    keys = {"alpha": "W_u", "beta": "W_q", "gamma": "W_k", "extra": "drop"}
    loaded = EqMotion.from_official(renamed, key_map=keys)
    for p, q in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.warns(UserWarning, match="by order; settle it with key_map"):
        EqMotion.from_official(renamed, key_map={"extra": "drop"})


@pytest.mark.bad_input
def test_errors():
    weights = official_state_dict(source("particle"))
    with pytest.raises(ValueError, match="variant must be one of"):
        EqMotion.from_official(weights, "vehicle")
    with pytest.raises(ValueError, match="variant must be 'pedestrian' if and only if"):
        EqMotion.from_official(weights, "pedestrian")
    with pytest.raises(ValueError, match=r"must hold layers named gcl_0., gcl_1."):
        EqMotion.from_official({"a.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="must number gcl_0 to gcl_1, got"):
        EqMotion.from_official({k: w for k, w in weights.items() if not k.startswith("gcl_1")})
    with pytest.raises(ValueError, match=r"must hold W_q with shapes .* in gcl_0"):
        EqMotion.from_official({k: w for k, w in weights.items() if not k.startswith("gcl_0.layer_")})
    with pytest.raises(ValueError, match="must hold nothing else in gcl_2"):
        EqMotion.from_official({**weights, "gcl_2.more.weight": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match="one table of tokens"):
        EqMotion.from_official(weights, "skeleton")
    with pytest.raises(ValueError, match="modules of the official one only, got axis_embedding"):
        official_state_dict(EqMotion(5, 3, up_axis=0))
