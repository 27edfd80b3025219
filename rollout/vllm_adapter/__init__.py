"""The draw inside vLLM 0.32; the only place that knows vLLM's internals, one file per seam.

sampler.py      V1 sampler: temperature per token, its logprob, entropy and temperature recorded
worker.py       vLLM worker classes that install the sampler
weights.py      weight-transfer backend "temper": new weights into a running engine
requests.py     GroupRequest -> vLLM requests
record.py       vLLM output -> Rollout, the one place where the record is built
in_process.py   Engine on LLMEngine, stepped by a thread of this process
async_llm.py    Engine on AsyncLLM, its core in a process of its own
start.py        engine arguments and the environment vLLM reads
"""
