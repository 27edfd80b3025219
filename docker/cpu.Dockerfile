# Temper on CPU: vLLM, Ray, DeepSpeed and the verifiers' tools, from the same pins as `make`.
#   docker build -f docker/cpu.Dockerfile -t temper:cpu .
#   docker run --rm -it --security-opt seccomp=unconfined --security-opt systempaths=unconfined temper:cpu train experiment=quickstart
# The two options let bubblewrap make its namespaces inside the container; without them choose reward.sandbox=unsafe.
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends iverilog bubblewrap yosys g++ make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /temper
# The dependencies change less often than the code: their layer is kept.
COPY pyproject.toml constraints-cpu.txt README.md LICENSE ./
RUN pip install --no-cache-dir -c constraints-cpu.txt --extra-index-url https://download.pytorch.org/whl/cpu torch \
    && pip install --no-cache-dir -c constraints-cpu.txt '.[cpu]' \
    && pip uninstall -y temper-rl

COPY rollout rollout
COPY learner learner
COPY reward reward
COPY orchestration orchestration
COPY conf conf
RUN pip install --no-cache-dir --no-deps --editable .

ENV OMP_NUM_THREADS=1
VOLUME /temper/runs
ENTRYPOINT ["temper"]
CMD ["doctor"]
