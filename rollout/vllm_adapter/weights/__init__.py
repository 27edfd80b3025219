"""New weights into a running engine.

    WeightUpdate -> checksum -> inspect -> pause(keep) -> policy -> drafter -> probe -> resume -> WeightConfirmation
                    '--- refused: the old version goes on ---'    '--- failed: the engine is unusable ---'

payload.py    bytes in shared memory or on a file system, read in place
gpu_memory.py handles of memory on a GPU that learner and engine share
broadcast.py  fetched from the learner's memory, over NCCL or gloo
rehearsal.py  what a model would take of them, found out without touching it
adapter.py    a LoRA adapter alone, put on the base weights
receiver.py   the steps inside vLLM's worker processes
backend.py    vLLM's weight-transfer interface for tensors that are already here
"""
