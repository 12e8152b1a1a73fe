"""The coder by the registry of mmengine."""

import pytest
import torch

import ucr_rsar

registry = pytest.importorskip("mmengine.registry")


def test_child_registries_find_the_coder():
    from ucr_rsar.integrations import mmengine

    assert mmengine.register() == mmengine.register_mmengine()
    child = registry.Registry("task util", parent=registry.TASK_UTILS, scope="ucr_test")
    grandchild = registry.Registry("task util", parent=child, scope="ucr_test_child")
    for build in (registry.TASK_UTILS.build, child.build, grandchild.build):
        coder = build({"type": "UCRCoder", "m": 3})
        assert isinstance(coder, ucr_rsar.UCRCoder)
    coder = grandchild.build({"type": "UCRCoder", "m": 2, "angle_version": "le90", "invalid_thr": 0.1, "loss_weight": 0.5})
    angle = torch.tensor([[0.3], [-1.2]])
    code = coder.encode(angle)
    assert code.shape == (2, 2)
    torch.testing.assert_close(coder.decode(code, keepdim=True), angle)
    torch.testing.assert_close(coder.loss_angle_restrict(2 * code), torch.tensor(1.5))
    torch.testing.assert_close(coder.get_restrict_loss(2 * code), torch.tensor(3.0))
    assert child.build({"type": "ACMCoder"}).encode_size == 2


@pytest.mark.bad_input
def test_bad_arguments_are_refused():
    from ucr_rsar.integrations import mmengine

    with pytest.raises(ValueError, match="angle_version must be one of"):
        mmengine.UCRCoder("r360")
    with pytest.raises(ValueError, match="loss_weight must not be negative"):
        mmengine.UCRCoder(loss_weight=-1)
