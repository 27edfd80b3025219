"""A response that was told how to be written: constraints in, fraction satisfied out.

    reference --read (reading.py)--> constraints, one frozen dataclass per kind (kinds.py names them)
    response --after </think>--> Answer --each constraint--> True or False --> reward = satisfied / all

The kinds mean what IFEval (arXiv:2311.07911) means by them, so that a policy trained here is measured there; where a
rule of IFEval rewards something that the instruction does not ask for, ours is stricter and the class says so. Every
check takes time linear in the response: it is hostile, and up to a megabyte long.
"""
