"""The draw inside vLLM 0.32; the only place that knows vLLM's internals, one file per seam.

rows.py         what each row of logits is drawn from: the rule of its own request
head.py         the learned temperature: a head on the hidden states of any model
kept.py         what truncation left to draw from, from the runner to the finished response
scheduler.py    vLLM's scheduler, which passes that on
sampler.py      V1 sampler: temperature per token, its logprob, entropy and temperature recorded
worker.py       vLLM worker classes that install the sampler
model_runner_v2.py, fused_temperature.py  the same draw in vLLM's Model Runner V2, on GPUs; not run yet
weights/        new weights into a running engine
hidden.py       the policy's hidden state behind a prompt; the worker's side of it is prompt_states.py
requests.py     GroupRequest -> vLLM requests
record.py       vLLM output -> Rollout, the one place where the record is built
in_process.py   Engine on LLMEngine, stepped by a thread of this process
async_llm.py    Engine on AsyncLLM, its core in a process of its own
stats.py        vLLM's statistics of every step -> EngineMetrics
start.py        engine arguments and the environment vLLM reads
"""
