# Temper with CUDA: vLLM's wheel brings the CUDA build of torch. NOT built or run so far: see docs/status.md.
#   docker build -f docker/gpu.Dockerfile -t temper:gpu .
#   docker run --rm -it --gpus all --ipc host --security-opt seccomp=unconfined --security-opt systempaths=unconfined temper:gpu
# --ipc host: NCCL between the processes of one host needs more shared memory than a container has by itself.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
       python3 python3-dev python3-venv iverilog bubblewrap yosys g++ make \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/temper
ENV PATH=/opt/temper/bin:$PATH

WORKDIR /temper
COPY pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir '.[gpu]' && pip uninstall -y temper-rl

COPY rollout rollout
COPY learner learner
COPY reward reward
COPY orchestration orchestration
COPY conf conf
RUN pip install --no-cache-dir --no-deps --editable .

VOLUME /temper/runs
ENTRYPOINT ["temper"]
CMD ["doctor"]
