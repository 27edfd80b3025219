"""Adapters: few parameters are trained, on layers of a policy whose own weights stay as they are.

    model folder --load_model--> policy --attach--> frozen layers with trainable additions --learner steps-->
        publish  "alone": A and B of every layer, which the engines merge | "merged": whole weights
        export   merged, a folder any tool can load            save/load   the additions and their optimizer state
        reference: the same policy, `switched_off` - no second model in memory

    adapter.py   what every adapter has in common            targets.py   which layers get one (KappaTune)
    lora.py      plain LoRA, through peft                    merge.py     additions -> B @ A -> whole weights
    routed.py    the base of mixtures of low-rank experts    losses.py    what keeps their routers in order
    lora_moe.py  gated experts, HiLo allocation              smora.py, radar_gate.py, dynmole.py, queryable.py

A mixture whose weights depend on the token is no matrix: engines cannot run it, so `temper train` refuses it. Rollouts
of anything else would come from another policy than the one that is trained.
"""

from learner.adapters.adapter import Adapter, attach, switched_off

__all__ = ["Adapter", "attach", "switched_off"]
