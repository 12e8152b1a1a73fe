"""Configuration of mmrotate 1.x: H2RBox-v2 with the unit-cycle coder; on its own it shows what the registry builds.

Put ``custom_imports`` and ``angle_coder`` in a copy of ``h2rbox_v2-le90_r50_fpn-1x_dota.py``; the restriction is then
``loss_angle_restrict(code)`` of the coder on the codes of the positive points.
"""

custom_imports = {"imports": ["ucr_rsar.integrations.mmengine"], "allow_failed_imports": False}
model = {"bbox_head": {"angle_coder": {"type": "UCRCoder", "angle_version": "le90", "m": 3, "invalid_thr": 0.2, "loss_weight": 0.03}}}

if __name__ == "__main__":
    from mmengine.registry import TASK_UTILS

    from ucr_rsar.integrations.mmengine import register

    print("registered", register())
    print(TASK_UTILS.build(model["bbox_head"]["angle_coder"]))
